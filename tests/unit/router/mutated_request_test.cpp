// Bodies of completions and chats damaged from a seed, as bytes and as values: each becomes a
// request that the rest of the router can serve, or an error of the client's with its reason.
#include <gtest/gtest.h>

#include <array>
#include <string>

#include "common/base/rng.hpp"
#include "services/router/served_model.hpp"
#include "tests/unit/http/mutate.hpp"

namespace fulgur::router {
namespace {

constexpr std::uint64_t kSeed = 20262;

constexpr std::array<std::string_view, 28> kWords = {
    "null", "true", "-1", "0", "1e999", "1e-999", "18446744073709551616", "-0.0", "[", "]", "{",
    "}", ",", ":", "\"", "\"\"", "[]", "{}", "\\ud800", "\\u0000", "\\", "\xff", "\xc3\x28",
    "\xf0\x9f\x92\xa9", "[[[[[[[[", "\"n\":128", "\"role\":\"tool\"", "\"prompt\":[[1]]"};

/// What a value is replaced by.
const std::array<const char*, 22> kValues = {
    "null", "true", "0", "-1", "0.5", "2", "1e308", "18446744073709551615",
    "-9223372036854775808", R"("")", R"("a")", R"("\u0000")", R"("<end_of_sentence>")", "[]",
    "[1,2]", "[[1],[2]]", R"(["a",[3]])", R"([null])", "{}", R"({"type":"text"})",
    R"({"1":100,"2":-100})", R"([{"role":"user","content":[{"type":"text","text":"b"}]}])"};

const std::string kCompletion = R"({"model":"m","prompt":["a fox",[1,2,3]],"stream":true,
  "stream_options":{"include_usage":true},"max_tokens":7,"min_tokens":2,"temperature":0.5,
  "top_p":0.25,"top_k":5,"min_p":0.125,"presence_penalty":-1,"frequency_penalty":1.5,
  "repetition_penalty":1.25,"seed":-3,"n":2,"stop":["a","b"],"stop_token_ids":[4,5],
  "logit_bias":{"6":-100,"7":1.5},"ignore_eos":true,"skip_special_tokens":false,
  "return_token_ids":true,"include_stop_str_in_output":true,"logprobs":3,"echo":true,
  "suffix":null,"best_of":2,"add_special_tokens":false})";

const std::string kChat = R"({"model":"m","messages":[{"role":"system","content":"be brief"},
  {"role":"user","name":"x","content":[{"type":"text","text":"a"},{"type":"text","text":"é"}]},
  {"role":"assistant","content":null,"tool_calls":[{"id":"x","type":"function",
  "function":{"name":"f","arguments":"{\"a\":1}"}}]},
  {"role":"tool","content":"42","tool_call_id":"x"},{"role":"user","content":"and then?"}],
  "tools":[{"type":"function","function":{"name":"f","parameters":{"a":[1,2]}}}],
  "tool_choice":"auto","response_format":{"type":"text"},"logprobs":true,"top_logprobs":2,
  "max_tokens":7,"max_completion_tokens":8,"temperature":0,"n":1,"seed":5,"stop":"x",
  "add_generation_prompt":true,"logit_bias":{"3":1}})";

/// One value somewhere in `json` becomes another, or one key of an object goes or gets a new name.
void damage_value(Json& json, Rng& rng) {
  if (json.is_structured() && !json.empty() && rng.below(8) != 0) {
    auto child = json.begin();
    std::advance(child, static_cast<std::ptrdiff_t>(rng.below(json.size())));
    if (!json.is_object() || rng.below(8) != 0) return damage_value(*child, rng);
    const Json value = *child;
    json.erase(child);
    if (rng.below(2) == 0) json["x"] = value;
    return;
  }
  json = Json::parse(kValues[rng.below(kValues.size())]);
}

class MutatedRequest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    auto model = ServedModel::load({.directory = FULGUR_SOURCE_DIR "/models/fulgur-tiny",
                                    .served_name = "m",
                                    .context_max = 4096});
    ASSERT_TRUE(model.is_ok()) << model.status().to_string();
    model_ = std::move(*model);
  }
  static void TearDownTestSuite() { model_.reset(); }

  /// Reads a body as the router does, up to the tokens of its prompts.
  void read(bool chat, const std::string& text) {
    auto body = parse_body(text);
    if (!body.is_ok()) return refused(body.error());
    auto request =
        chat ? parse_chat(*body, model_->limits()) : parse_completion(*body, model_->limits());
    if (!request.is_ok()) return refused(request.error());
    EXPECT_EQ(request->chat, chat);
    EXPECT_GE(request->choices(), 1U);
    EXPECT_LE(request->choices(), model_->limits().choices_max);
    EXPECT_LE(request->max_tokens.value_or(0), model_->limits().context_max);
    if (chat) {
      encoded(
          model_->encode_chat(request->messages, request->tools, request->add_generation_prompt));
    }
    for (const Prompt& prompt : request->prompts)
      encoded(model_->encode(prompt, request->add_special_tokens, "prompt"));
    ++requests_;
  }

  static std::shared_ptr<const ServedModel> model_;
  std::size_t requests_ = 0;
  std::size_t refusals_ = 0;

 private:
  void refused(const ApiError& error) {
    EXPECT_GE(error.status, 400);
    EXPECT_LT(error.status, 500) << error.message;
    EXPECT_NE(error.message, "");
    const Json body = Json::parse(error.body(), nullptr, false);  // valid UTF-8, as JSON must be
    EXPECT_TRUE(body.is_object() && body["error"].is_object()) << error.body();
    ++refusals_;
  }
  void encoded(ApiResult<TokenIds> ids) {
    if (!ids.is_ok()) return refused(ids.error());
    EXPECT_FALSE(ids->empty());
    for (const std::uint32_t id : *ids) EXPECT_LT(id, model_->limits().vocab);
  }
};

std::shared_ptr<const ServedModel> MutatedRequest::model_;

TEST_F(MutatedRequest, OriginalsAreServed) {
  read(false, kCompletion);
  read(true, kChat);
  EXPECT_EQ(requests_, 2U);
  EXPECT_EQ(refusals_, 0U);
}

TEST_F(MutatedRequest, BytesAreReadOrRefused) {
  Rng rng(kSeed);
  for (int round = 0; round < 4000 && !HasFailure(); ++round) {
    const bool chat = rng.below(2) == 0;
    const std::string text = http::testing::mutate(chat ? kChat : kCompletion, kWords, rng);
    SCOPED_TRACE(testing::Message() << "seed " << kSeed << ", round " << round << ": " << text);
    read(chat, text);
  }
  EXPECT_GT(requests_, 200U);
  EXPECT_GT(refusals_, 2000U);
}

TEST_F(MutatedRequest, ValuesAreReadOrRefused) {
  Rng rng(kSeed + 1);
  for (int round = 0; round < 4000 && !HasFailure(); ++round) {
    const bool chat = rng.below(2) == 0;
    Json body = Json::parse(chat ? kChat : kCompletion);
    for (std::uint64_t left = 1 + rng.below(3); left > 0; --left) damage_value(body, rng);
    const std::string text = body.dump();
    SCOPED_TRACE(testing::Message() << "seed " << kSeed + 1 << ", round " << round << ": " << text);
    read(chat, text);
  }
  EXPECT_GT(requests_, 200U);
  EXPECT_GT(refusals_, 1000U);
}

TEST_F(MutatedRequest, ABodyCutAnywhereIsRefused) {
  std::size_t cuts = 0;
  for (const bool chat : {false, true}) {
    const std::string& body = chat ? kChat : kCompletion;
    for (std::size_t size = 0; size < body.size(); ++size, ++cuts) read(chat, body.substr(0, size));
  }
  EXPECT_EQ(refusals_, cuts);
}

}  // namespace
}  // namespace fulgur::router
