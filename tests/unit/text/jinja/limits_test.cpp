// Templates and inputs that would run away: each ends with a Status, soon.
#include "common/text/chat_template.hpp"
#include "tests/unit/text/text_fixture.hpp"

namespace fulgur::text {
namespace {

std::string repeat(const std::string& text, std::size_t times) {
  std::string out;
  for (std::size_t i = 0; i < times; ++i) out += text;
  return out;
}

Status outcome(const std::string& source) {
  const auto parsed = ChatTemplate::parse(source);
  return parsed ? parsed->render(Json::array()).status() : parsed.status();
}

TEST(Limits, RunawayTemplatesEnd) {
  const std::string loop = "{% for a in range(100000) %}";
  const std::string end = "{% endfor %}";
  for (const std::string& source : std::initializer_list<std::string>{
           repeat(loop, 3) + repeat(end, 3),
           "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
           "{% set n = namespace(x='ab') %}" + loop + "{% set n.x = n.x + n.x %}" + end,
           "{% set n = namespace(x=[1]) %}" + loop + "{% set n.x = n.x + n.x %}" + end,
           "{% set n = namespace(x=[1]) %}" + loop + "{% set n.x = [n.x, n.x] %}" + end,
           "{% set n = namespace(x=[1]) %}{% for a in range(60) %}{% set n.x = [n.x, n.x] %}" +
               end + "{{ n.x }}",
           "{% set n = namespace(x=[1], y=[1]) %}{% for a in range(60) %}{% set n.x = [n.x, n.x] %}"
           "{% set n.y = [n.y, n.y] %}" +
               end + "{{ n.x == n.y }}",
           "{% set n = namespace() %}{% set n.x = n %}",
           "{% set n = namespace() %}{% set n.x = [n] %}",
           "{{ 'ab' * 999999999999 }}",
           "{{ [1] * 999999999999 }}",
           "{{ range(999999999) }}",
           "{{ ('a' * 1000000).replace('a', 'b' * 1000000) }}",
           "{{ ('a' * 1000000) | replace('', 'b' * 1000000) }}",
           "{{ range(100000) | join('a' * 100000) }}",
           "{{ " + repeat("(", 5000) + "1" + repeat(")", 5000) + " }}",
           "{{ " + repeat("[", 5000) + repeat("]", 5000) + " }}",
           "{{ 1" + repeat(" + 1", 5000) + " }}",
           "{{ a" + repeat(".b", 5000) + " }}",
           "{{ " + repeat("not ", 5000) + "1 }}",
           "{{ " + repeat("-", 5000) + "1 }}",
           repeat("{% if 1 %}", 5000) + repeat("{% endif %}", 5000)}) {
    const Status status = outcome(source);
    EXPECT_FALSE(status.is_ok()) << source.substr(0, 120);
  }
}

TEST(Limits, LongConversationsFit) {
  Json messages = Json::array();
  for (int i = 0; i < 2000; ++i) {
    messages.push_back(
        {{"role", i % 2 == 0 ? "user" : "assistant"}, {"content", repeat("word ", 400)}});
  }
  const auto chat = load_chat_template(FULGUR_M1_TOKENIZER_DIR);
  const auto prompt = chat->render(messages);
  ASSERT_TRUE(prompt.is_ok()) << prompt.status().to_string();
  EXPECT_GT(prompt->size(), 4'000'000U);
}

TEST(Limits, RandomTemplatesNeverCrash) {
  static constexpr std::string_view kPieces[] = {
      "{{",       "}}",     "{%",         "%}",          "{#",       "#}",      "-",      "+",
      "|",        "(",      ")",          "[",           "]",        "{",       "}",      "'",
      "\"",       ".",      ",",          ":",           "=",        "==",      "*",      "/",
      "//",       "%",      "**",         "~",           " ",        "\n",      "if ",    "else ",
      "elif ",    "endif",  "for ",       " in ",        "endfor",   "set ",    "endset", "macro ",
      "endmacro", "call ",  "endcall",    "is ",         "not ",     "and ",    "or ",    "x",
      "messages", "loop",   "loop.index", "namespace()", "range(3)", "1",       "2.5",    "'a'",
      "trim",     "tojson", "join",       "map",         "length",   "defined", "string", "true",
      "none",     "raw",    "endraw"};
  for (const std::uint64_t seed : {31, 32, 33, 34}) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    Rng rng(seed);
    std::size_t parsed = 0;
    for (int i = 0; i < 5000; ++i) {
      std::string source = rng.below(2) == 0 ? "{{" : "{%";
      for (std::size_t n = rng.below(14); n > 0; --n)
        source += kPieces[rng.below(std::size(kPieces))];
      source += rng.below(2) == 0 ? "}}" : "%}";
      const auto chat = ChatTemplate::parse(source);
      if (!chat) continue;
      ++parsed;
      const auto prompt = chat->render({{{"role", "user"}, {"content", "x y"}}});
      EXPECT_TRUE(prompt.is_ok() || !prompt.status().message().empty());
    }
    EXPECT_GT(parsed, 0U);
  }
}

}  // namespace
}  // namespace fulgur::text
