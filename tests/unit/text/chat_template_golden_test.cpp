// Rendered prompts against Jinja2 (cases.json) and npm @huggingface/jinja (rendered.json), and the
// ids of marked prompts against those of the same text without marks.
#include "common/text/chat_template.hpp"

#include "tests/unit/text/text_fixture.hpp"

namespace fulgur::text {
namespace {

using Ids = std::vector<std::uint32_t>;

ChatTemplate load(const std::string& model_dir) {
  auto loaded = load_chat_template(model_dir);
  FULGUR_ASSERT(loaded.is_ok(), loaded.status().to_string());
  return *loaded;
}

bool spells_control_token(const Json& messages) {
  return messages.dump().find("<end_of_sentence>") != std::string::npos;
}

void check_cases(const std::string& model, const ChatTemplate& chat, const Tokenizer& tokenizer) {
  std::size_t checked = 0;
  for (const Json& item : read_golden("chat_template/cases.json")) {
    if (!item.contains(model)) continue;
    SCOPED_TRACE(item["name"].get<std::string>());
    const auto prompt = chat.render(item["messages"], item["tools"],
                                    {{"add_generation_prompt", item["add_generation_prompt"]}});
    ASSERT_TRUE(prompt.is_ok()) << prompt.status().to_string();
    EXPECT_EQ(prompt->text(), item[model].get<std::string>());
    const Ids marked = *encode_prompt(tokenizer, *prompt);
    const Ids whole = *tokenizer.encode(prompt->text());
    EXPECT_EQ(tokenizer.decode(marked), prompt->text());
    if (spells_control_token(item["messages"])) {
      EXPECT_NE(marked, whole);
    } else {
      EXPECT_EQ(marked, whole);
    }
    ++checked;
  }
  EXPECT_GE(checked, 6U);
}

TEST(ChatTemplateGolden, FulgurTiny) {
  const ChatTemplate chat = load(FULGUR_SOURCE_DIR "/models/fulgur-tiny");
  EXPECT_EQ(chat.content_format(), ContentFormat::string);
  check_cases("fulgur-tiny", chat, tiny_tokenizer());
}

TEST(ChatTemplateGolden, MiniMaxM1) {
  const ChatTemplate chat = load(FULGUR_M1_TOKENIZER_DIR);
  EXPECT_EQ(chat.content_format(), ContentFormat::typed);
  check_cases("m1", chat, m1_tokenizer());
}

TEST(ChatTemplateGolden, TwelveTemplatesRenderAsHuggingFaceDoes) {
  std::map<std::string, ChatTemplate> templates;
  std::map<std::string, int> checked;
  for (const Json& item : read_golden("chat_template/rendered.json")) {
    const auto file = item["template"].get<std::string>();
    SCOPED_TRACE(file + ", " + item["name"].get<std::string>());
    if (!templates.contains(file)) {
      auto parsed = ChatTemplate::parse(
          read_file(FULGUR_SOURCE_DIR "/tests/golden/chat_template/templates/" + file),
          {{"bos_token", "<s>"}, {"eos_token", "</s>"}});
      ASSERT_TRUE(parsed.is_ok()) << parsed.status().to_string();
      templates.emplace(file, *parsed);
    }
    const auto prompt = templates.at(file).render(item["messages"], item["tools"], item["extra"]);
    ASSERT_TRUE(prompt.is_ok()) << prompt.status().to_string();
    EXPECT_EQ(prompt->text(), item["prompt"].get<std::string>());
    EXPECT_EQ(*encode_prompt(tiny_tokenizer(), *prompt), *tiny_tokenizer().encode(prompt->text()));
    ++checked[file];
  }
  EXPECT_EQ(checked.size(), 12U);
}

}  // namespace
}  // namespace fulgur::text
