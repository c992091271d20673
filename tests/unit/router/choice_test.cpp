#include "services/router/choice.hpp"

#include <gtest/gtest.h>

#include "common/text/utf8.hpp"

namespace fulgur::router {
namespace {

class ChoiceTest : public ::testing::Test {
 protected:
  ChoiceTest() {
    auto model = ServedModel::load({.directory = FULGUR_SOURCE_DIR "/models/fulgur-tiny",
                                    .served_name = {}});
    EXPECT_TRUE(model.is_ok()) << model.status().to_string();
    model_ = *model;
    request_.max_tokens = 1000;
  }

  Choice make() {
    return Choice(std::make_shared<const GenerationRequest>(request_), model_,
                  std::make_shared<const TokenIds>(TokenIds{5, 6}), 0, 1);
  }

  /// Every piece shown while these tokens arrive one by one.
  std::vector<std::string> pieces(Choice& choice, const TokenIds& ids) {
    std::vector<std::string> shown;
    for (std::uint32_t i = 0; i < ids.size() && !choice.finished(); ++i) {
      EXPECT_EQ(choice.take({1, i, ids[i], false, 0, {}}), Choice::Taken::used);
      shown.push_back(choice.take_delta().text);
    }
    return shown;
  }

  std::shared_ptr<const ServedModel> model_;
  GenerationRequest request_;
};

TEST_F(ChoiceTest, NeverShowsHalfACharacter) {
  const std::string text = "a\xe2\x82\xac\xf0\x9f\xa6\x8a" "b";  // single-byte tokens of € and a fox
  TokenIds ids;
  for (const char c : text) ids.push_back(*model_->tokenizer()->token_id(std::string(1, c)));
  Choice choice = make();
  std::string all;
  for (const auto& piece : pieces(choice, ids)) {
    EXPECT_EQ(text::utf8::valid_prefix(piece), piece.size());
    all += piece;
  }
  EXPECT_EQ(all, text);
}

TEST_F(ChoiceTest, AnUnfinishedCharacterAtTheEndIsReplaced) {
  Choice choice = make();
  pieces(choice, {*model_->tokenizer()->token_id("\xe2")});
  choice.finish(wire::FinishReason::length);
  EXPECT_EQ(choice.take_delta().text, "\xef\xbf\xbd");
}

TEST_F(ChoiceTest, MinTokensHoldStopsBack) {
  request_.min_tokens = 3;
  request_.stop = {"he"};
  const TokenIds ids = *model_->tokenizer()->encode("he he he he he");
  Choice choice = make();
  std::string all;
  for (const auto& piece : pieces(choice, ids)) all += piece;
  EXPECT_TRUE(choice.finished());
  EXPECT_EQ(all, "he he ");
}

TEST_F(ChoiceTest, ResumesWithPromptAndGenerated) {
  Choice choice = make();
  pieces(choice, {100, 101});
  const wire::Submit submit = choice.submit(9);
  EXPECT_EQ(submit.request, 9U);
  EXPECT_EQ(submit.tokens, (TokenIds{5, 6, 100, 101}));
  EXPECT_EQ(submit.prompt_tokens, 2U);
  EXPECT_EQ(submit.max_new_tokens, 1000U);
  EXPECT_EQ(choice.take({9, 1, 101, false, 0, {}}), Choice::Taken::duplicate);
  EXPECT_EQ(choice.take({9, 3, 103, false, 0, {}}), Choice::Taken::gap);
  EXPECT_EQ(choice.generated(), 2U);
}

TEST_F(ChoiceTest, WithoutALimitTheUsualOneOrTheRestOfTheContextHolds) {
  request_.max_tokens.reset();
  EXPECT_EQ(make().submit(1).max_new_tokens, model_->limits().default_max_tokens);
  const std::uint64_t room = 10;
  const auto long_prompt =
      std::make_shared<const TokenIds>(TokenIds(model_->limits().context_max - room, 5));
  const Choice choice(std::make_shared<const GenerationRequest>(request_), model_, long_prompt, 0, 1);
  EXPECT_EQ(choice.submit(1).max_new_tokens, room);
}

TEST_F(ChoiceTest, IgnoreEosGoesOn) {
  request_.ignore_eos = true;
  Choice choice = make();
  EXPECT_TRUE(choice.submit(1).stop_ids.empty());
  pieces(choice, {1, 3});
  EXPECT_FALSE(choice.finished());
}

}  // namespace
}  // namespace fulgur::router
