// One-line templates against what Jinja2 itself renders (language.json), and syntax errors.
#include "common/text/chat_template.hpp"
#include "tests/unit/text/text_fixture.hpp"

namespace fulgur::text {
namespace {

TEST(Language, RendersAsJinja2Does) {
  const Json golden = read_golden("chat_template/language.json");
  for (const Json& item : golden["cases"]) {
    const auto source = item[0].get<std::string>();
    const auto parsed = ChatTemplate::parse(source);
    ASSERT_TRUE(parsed.is_ok()) << source << "\n" << parsed.status().to_string();
    const auto prompt = parsed->render(Json::array(), nullptr, golden["variables"]);
    ASSERT_TRUE(prompt.is_ok()) << source << "\n" << prompt.status().to_string();
    EXPECT_EQ(prompt->text(), item[1].get<std::string>()) << source;
  }
}

std::string render_error(const std::string& source) {
  const auto parsed = ChatTemplate::parse(source);
  if (!parsed) return parsed.status().message();
  return parsed->render(Json::array()).status().message();
}

TEST(Language, SyntaxErrorsNameLineAndColumn) {
  const std::pair<const char*, const char*> cases[] = {
      {"a\n{{ x", "line 2 column 1: tag is not closed, }} is missing"},
      {"{{ 'abc }}", "line 1 column 4: string is not closed"},
      {"{% if x %}a", "line 1 column 11: block is not closed, endif is missing"},
      {"{% for x in y %}{% endif %}", "line 1 column 20: statement endif is not supported here"},
      {"é{{ 1 + }}", "line 1 column 9: expected an expression, found }}"},
      {"{{ x | nosuch }}", "line 1 column 8: no filter named nosuch"},
      {"{{ x is nosuch }}", "line 1 column 9: no test named nosuch"},
      {"{% include 'x' %}", "line 1 column 4: statement include is not supported here"},
      {"{% break %}", "line 1 column 10: break outside of a loop"},
      {"{# never", "line 1 column 1: comment is not closed"},
      {"{% raw %}x", "line 1 column 1: raw block is not closed"},
      {"{{ a ? b }}", "line 1 column 6: unexpected character ?"},
      {"{{ (1 }}", "line 1 column 8: unexpected }"},
      {"{{ 99999999999999999999 }}", "line 1 column 25: number is out of range"},
      {"{{ x[1:2:3:4] }}", "line 1 column 12: a slice has at most three parts"},
      {"{{ '\\ud800' }}", "line 1 column 11: escape is not a character"},
  };
  for (const auto& [source, message] : cases) {
    EXPECT_EQ(render_error(source), std::string("chat template ") + message) << source;
  }
  EXPECT_EQ(ChatTemplate::parse("ab\xFF").status().message(),
            "chat template is not valid UTF-8 at byte 2");
}

TEST(Language, WrongTypesAreErrors) {
  const std::pair<const char*, const char*> cases[] = {
      {"{{ 'a' + 1 }}", "line 1 column 8: cannot use + on str and int"},
      {"{{ x.y }}", "line 1 column 5: x is undefined"},
      {"{{ x + 'a' }}", "line 1 column 6: x is undefined"},
      {"{{ x() }}", "line 1 column 5: x is undefined"},
      {"{{ 1 / 0 }}", "line 1 column 6: division by zero"},
      {"{{ 5 % 0 }}", "line 1 column 6: division by zero"},
      {"{% for a in 5 %}{% endfor %}", "line 1 column 4: int is not iterable"},
      {"{% for a, b in [[1]] %}{% endfor %}",
       "line 1 column 4: cannot unpack 1 values into 2 names"},
      {"{{ 'a'.nosuch() }}", "line 1 column 14: str has no method nosuch"},
      {"{{ x | tojson }}", "line 1 column 6: tojson: x is undefined"},
      {"{{ 9223372036854775807 + 1 }}", "line 1 column 24: integer overflow"},
      {"{{ 10 ** 30 }}", "line 1 column 7: integer overflow"},
      {"{% set a.b = 1 %}", "line 1 column 4: a is not a namespace"},
      {"{{ 1 < 'a' }}", "line 1 column 4: cannot use < on int and str"},
      {"{{ 'a'[::0] }}", "line 1 column 7: slice step cannot be zero"},
  };
  for (const auto& [source, message] : cases) {
    EXPECT_EQ(render_error(source), std::string("chat template ") + message) << source;
  }
}

TEST(Language, StrftimeUsesTheGivenTime) {
  const auto parsed = ChatTemplate::parse("{{ strftime_now('%Y') }}");
  EXPECT_EQ(parsed->render(Json::array(), nullptr, Json::object(), 1'000'000'000 * kSecond)->text(),
            "2001");
}

}  // namespace
}  // namespace fulgur::text
