#include "services/router/openai_request.hpp"

#include <gtest/gtest.h>

namespace fulgur::router {
namespace {

RequestLimits limits() {
  RequestLimits limits;
  limits.vocab = 1000;
  limits.context_max = 4096;
  return limits;
}

ApiResult<GenerationRequest> parse(bool chat, const std::string& text) {
  auto body = parse_body(text);
  if (!body.is_ok()) return body.error();
  return chat ? parse_chat(*body, limits()) : parse_completion(*body, limits());
}

std::string with(bool chat, const std::string& field) {
  const std::string rest = chat ? R"("messages":[{"role":"user","content":"hi"}])"
                                : R"("prompt":"hi")";
  return "{" + rest + (field.empty() ? "" : "," + field) + "}";
}

GenerationRequest accepted(bool chat, const std::string& field) {
  auto request = parse(chat, with(chat, field));
  EXPECT_TRUE(request.is_ok()) << field << ": " << request.error().message;
  return request.is_ok() ? *request : GenerationRequest{};
}

struct Refusal {
  const char* field;
  const char* param;
  const char* code;
};

TEST(OpenAiRequest, RefusesWrongTypesAndRangesNamingTheField) {
  constexpr const char* kType = "invalid_type";
  constexpr const char* kValue = "invalid_value";
  const Refusal refusals[] = {
      {R"("model":3)", "model", kType},
      {R"("stream":"yes")", "stream", kType},
      {R"("stream_options":[])", "stream_options", kType},
      {R"("stream_options":{"include_usage":true})", "stream_options", kValue},
      {R"("stream":true,"stream_options":{"include_usage":1})", "stream_options.include_usage",
       kType},
      {R"("max_tokens":"5")", "max_tokens", kType},
      {R"("max_tokens":0)", "max_tokens", kValue},
      {R"("max_tokens":-1)", "max_tokens", kValue},
      {R"("max_tokens":1.5)", "max_tokens", kValue},
      {R"("max_tokens":5000)", "max_tokens", "context_length_exceeded"},
      {R"("max_tokens":99999999999999999999999)", "max_tokens", kValue},
      {R"("min_tokens":-1)", "min_tokens", kValue},
      {R"("max_tokens":4,"min_tokens":5)", "min_tokens", kValue},
      {R"("temperature":"hot")", "temperature", kType},
      {R"("temperature":-0.1)", "temperature", kValue},
      {R"("temperature":2.1)", "temperature", kValue},
      {R"("top_p":1.01)", "top_p", kValue},
      {R"("top_p":[1])", "top_p", kType},
      {R"("top_k":-2)", "top_k", kValue},
      {R"("top_k":4294967296)", "top_k", kValue},
      {R"("top_k":"all")", "top_k", kType},
      {R"("min_p":1.5)", "min_p", kValue},
      {R"("presence_penalty":2.5)", "presence_penalty", kValue},
      {R"("frequency_penalty":-3)", "frequency_penalty", kValue},
      {R"("repetition_penalty":0)", "repetition_penalty", kValue},
      {R"("seed":1.5)", "seed", kValue},
      {R"("seed":"x")", "seed", kType},
      {R"("n":0)", "n", kValue},
      {R"("n":129)", "n", kValue},
      {R"("n":true)", "n", kType},
      {R"("stop":5)", "stop", kValue},
      {R"("stop":[""])", "stop", kValue},
      {R"("stop":["a",1])", "stop", kValue},
      {R"("stop":["1","2","3","4","5","6","7","8","9","10","11","12","13","14","15","16","17"])",
       "stop", kValue},
      {R"("stop_token_ids":[1000])", "stop_token_ids", kValue},
      {R"("stop_token_ids":7)", "stop_token_ids", kType},
      {R"("logit_bias":[])", "logit_bias", kType},
      {R"("logit_bias":{"1000":1})", "logit_bias", kValue},
      {R"("logit_bias":{"x":1})", "logit_bias", kValue},
      {R"("logit_bias":{"5":101})", "logit_bias", kValue},
      {R"("logit_bias":{"5":"1"})", "logit_bias", kValue},
      {R"("ignore_eos":1)", "ignore_eos", kType},
      {R"("skip_special_tokens":1)", "skip_special_tokens", kType},
      {R"("return_token_ids":1)", "return_token_ids", kType},
      {R"("include_stop_str_in_output":1)", "include_stop_str_in_output", kType},
  };
  for (const bool chat : {false, true}) {
    for (const Refusal& refusal : refusals) {
      const auto request = parse(chat, with(chat, refusal.field));
      ASSERT_FALSE(request.is_ok()) << refusal.field;
      EXPECT_EQ(request.error().status, 400) << refusal.field;
      EXPECT_EQ(request.error().param, refusal.param) << request.error().message;
      EXPECT_EQ(request.error().code, refusal.code) << request.error().message;
      EXPECT_NE(request.error().message.find(std::string(refusal.param).substr(0, 6)),
                std::string::npos);
    }
  }
}

TEST(OpenAiRequest, TakesWhatChangesNothing) {
  EXPECT_EQ(accepted(false, R"("top_k":1001)").sampling.top_k, 1000U);  // all there are
  EXPECT_EQ(accepted(true, R"("top_logprobs":0)").top_logprobs, 0U);
}

TEST(OpenAiRequest, TakesEveryField) {
  for (const bool chat : {false, true}) {
    const GenerationRequest request = accepted(chat, R"(
      "model":"m","stream":true,"stream_options":{"include_usage":true},"max_tokens":7,
      "min_tokens":2,"temperature":0.5,"top_p":0.25,"top_k":5,"min_p":0.125,
      "presence_penalty":-1,"frequency_penalty":1.5,"repetition_penalty":1.25,"seed":-3,"n":2,
      "stop":["a","b"],"stop_token_ids":[4,5],"logit_bias":{"6":-100},"ignore_eos":true,
      "skip_special_tokens":false,"return_token_ids":true,"include_stop_str_in_output":true,
      "unknown_field":{"ignored":[1]},"user":"me","metadata":null)");
    EXPECT_EQ(request.chat, chat);
    EXPECT_EQ(request.model, "m");
    EXPECT_TRUE(request.stream && request.include_usage && request.ignore_eos);
    EXPECT_TRUE(request.return_token_ids && request.include_stop && !request.skip_special);
    EXPECT_EQ(request.max_tokens, 7U);
    EXPECT_EQ(request.min_tokens, 2U);
    EXPECT_EQ(request.sampling.temperature, 0.5F);
    EXPECT_EQ(request.sampling.top_p, 0.25F);
    EXPECT_EQ(request.sampling.top_k, 5U);
    EXPECT_EQ(request.sampling.min_p, 0.125F);
    EXPECT_EQ(request.sampling.presence_penalty, -1.0F);
    EXPECT_EQ(request.sampling.frequency_penalty, 1.5F);
    EXPECT_EQ(request.sampling.repetition_penalty, 1.25F);
    EXPECT_EQ(request.seed, static_cast<std::uint64_t>(-3));
    EXPECT_EQ(request.n, 2U);
    EXPECT_EQ(request.stop, (std::vector<std::string>{"a", "b"}));
    EXPECT_EQ(request.stop_token_ids, (std::vector<std::uint32_t>{4, 5}));
    EXPECT_EQ(request.sampling.logit_bias.size(), 1U);
    EXPECT_EQ(request.choices(), 2U);
  }
}

TEST(OpenAiRequest, NullAndAbsentMeanTheDefault) {
  for (const bool chat : {false, true}) {
    for (const char* field :
         {"", R"("temperature":null,"stop":null,"n":null,"seed":null,"stream":null,"top_k":null,
                 "logit_bias":null,"logprobs":null,"max_tokens":null,"stream_options":null)"}) {
      const GenerationRequest request = accepted(chat, field);
      EXPECT_EQ(request.sampling.temperature, 1.0F);
      EXPECT_EQ(request.n, 1U);
      EXPECT_FALSE(request.seed.has_value());
      EXPECT_EQ(request.max_tokens, chat ? std::nullopt : std::optional<std::uint32_t>(16));
    }
  }
}

TEST(OpenAiRequest, CheckpointDefaultsApply) {
  RequestLimits tuned = limits();
  tuned.defaults.temperature = 0.7F;
  tuned.defaults.top_k = 40;
  auto body = parse_body(R"({"prompt":"x","top_k":-1})");
  auto request = parse_completion(*body, tuned);
  ASSERT_TRUE(request.is_ok());
  EXPECT_EQ(request->sampling.temperature, 0.7F);
  EXPECT_EQ(request->sampling.top_k, 0U);
}

TEST(OpenAiRequest, CompletionPrompts) {
  const auto prompts = [](const std::string& prompt) {
    return parse(false, R"({"prompt":)" + prompt + "}");
  };
  EXPECT_EQ(prompts(R"("a")")->prompts, (std::vector<Prompt>{"a"}));
  EXPECT_EQ(prompts(R"(["a","b"])")->prompts, (std::vector<Prompt>{"a", "b"}));
  using Ids = std::vector<std::uint32_t>;
  EXPECT_EQ(prompts("[1,2]")->prompts, (std::vector<Prompt>{Ids{1, 2}}));
  EXPECT_EQ(prompts("[[1],[2,3]]")->prompts, (std::vector<Prompt>{Ids{1}, Ids{2, 3}}));
  EXPECT_EQ(prompts(R"(["a",[3]])")->prompts, (std::vector<Prompt>{"a", Ids{3}}));
  for (const auto& [text, param] : {std::pair{"[]", "prompt"}, {"{}", "prompt"}, {"7", "prompt"},
                                    {"[1,1000]", "prompt"}, {"[1,\"a\"]", "prompt"},
                                    {"[1,-1]", "prompt"}, {"[[1],[\"a\"]]", "prompt[1]"},
                                    {"[\"a\",null]", "prompt[1]"}, {"null", "prompt"}}) {
    const auto refused = prompts(text);
    ASSERT_FALSE(refused.is_ok()) << text;
    EXPECT_EQ(refused.error().param, param) << text;
  }
}

TEST(OpenAiRequest, CompletionLogprobsAndEcho) {
  EXPECT_EQ(accepted(false, R"("logprobs":3)").top_logprobs, 3);
  EXPECT_TRUE(accepted(false, R"("logprobs":0)").logprobs);
  EXPECT_FALSE(accepted(false, "").logprobs);
  const GenerationRequest scoring = accepted(false, R"("logprobs":1,"echo":true,"max_tokens":0)");
  EXPECT_TRUE(scoring.prompt_logprobs);
  EXPECT_EQ(scoring.max_tokens, 0U);
  for (const char* field : {R"("logprobs":21)", R"("logprobs":true)", R"("logprobs":-1)"}) {
    EXPECT_EQ(parse(false, with(false, field)).error().param, "logprobs");
  }
  EXPECT_EQ(parse(false, with(false, R"("suffix":"x")")).error().param, "suffix");
  EXPECT_EQ(parse(false, with(false, R"("best_of":2)")).error().param, "best_of");
  EXPECT_EQ(parse(false, R"({"prompt":["a","b"],"n":100})").error().param, "n");
}

TEST(OpenAiRequest, ChatLogprobsAndLimits) {
  EXPECT_EQ(accepted(true, R"("logprobs":true,"top_logprobs":20)").top_logprobs, 20);
  EXPECT_EQ(accepted(true, R"("max_tokens":3,"max_completion_tokens":4)").max_tokens, 4U);
  const Refusal refusals[] = {
      {R"("logprobs":1)", "logprobs", "invalid_type"},
      {R"("top_logprobs":2)", "top_logprobs", "invalid_value"},
      {R"("logprobs":true,"top_logprobs":21)", "top_logprobs", "invalid_value"},
      {R"("max_completion_tokens":0)", "max_completion_tokens", "invalid_value"},
      {R"("response_format":{"type":"json_object"})", "response_format.type", "unsupported_value"},
      {R"("tool_choice":"required")", "tool_choice", "unsupported_value"},
      {R"("tools":{})", "tools", "invalid_type"}};
  for (const Refusal& refusal : refusals) {
    const auto request = parse(true, with(true, refusal.field));
    ASSERT_FALSE(request.is_ok()) << refusal.field;
    EXPECT_EQ(request.error().param, refusal.param);
    EXPECT_EQ(request.error().code, refusal.code);
  }
}

TEST(OpenAiRequest, MessagesBecomeStrings) {
  auto request = parse(true, R"({"messages":[
    {"role":"developer","content":"be brief"},
    {"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]},
    {"role":"assistant","content":null,"tool_calls":[{"id":"x"}]},
    {"role":"assistant"},
    {"role":"tool","content":"42","tool_call_id":"x"}],
    "tools":[{"type":"function","function":{"name":"z","a":1}}]})");
  ASSERT_TRUE(request.is_ok()) << request.error().message;
  EXPECT_EQ(request->messages[0]["role"], "system");
  EXPECT_EQ(request->messages[1]["content"].dump(),
            R"([{"type":"text","text":"a"},{"type":"text","text":"b"}])");  // the template joins them
  EXPECT_TRUE(request->messages[2]["content"].is_null());
  EXPECT_EQ(request->messages[3]["content"], "");
  EXPECT_EQ(request->messages[4]["tool_call_id"], "x");
  EXPECT_EQ(request->tools.dump(), R"([{"type":"function","function":{"name":"z","a":1}}])");
}

TEST(OpenAiRequest, BrokenMessagesAreNamed) {
  const std::pair<const char*, const char*> refusals[] = {
      {"[]", "messages"},
      {R"("hi")", "messages"},
      {"[3]", "messages[0]"},
      {R"([{"content":"x"}])", "messages[0].role"},
      {R"([{"role":"robot","content":"x"}])", "messages[0].role"},
      {R"([{"role":"user"}])", "messages[0].content"},
      {R"([{"role":"user","content":5}])", "messages[0].content"},
      {R"([{"role":"user","content":["x"]}])", "messages[0].content[0]"},
      {R"([{"role":"user","content":"x"},{"role":"user","content":[{"type":"image_url"}]}])",
       "messages[1].content[0].type"},
      {R"([{"role":"user","content":[{"type":"text"}]}])", "messages[0].content[0].text"}};
  for (const auto& [messages, param] : refusals) {
    const auto request = parse(true, std::string(R"({"messages":)") + messages + "}");
    ASSERT_FALSE(request.is_ok()) << messages;
    EXPECT_EQ(request.error().param, param) << request.error().message;
  }
  EXPECT_EQ(parse(true, "{}").error().param, "messages");
}

TEST(OpenAiRequest, BodiesThatAreNoRequests) {
  const std::string bodies[] = {"", "{", "[]", "null", "3", R"({"a":1}x)", R"({"a":"\ud800"})",
                                std::string("{\"a\":\"\xff\"}"), std::string(100'000, '['),
                                R"({"a":01})"};
  for (const std::string& body : bodies) {
    const auto request = parse(false, body);
    ASSERT_FALSE(request.is_ok()) << body.substr(0, 20);
    EXPECT_EQ(request.error().status, 400);
    EXPECT_EQ(request.error().param, "");
  }
  std::string wide = "{";
  for (int i = 0; i < 2000; ++i) wide += "\"k" + std::to_string(i) + "\":1,";
  wide += "\"prompt\":\"x\"}";
  EXPECT_FALSE(parse(false, wide).is_ok());
}

TEST(OpenAiRequest, ChoicesDrawFromDifferentSeeds) {
  EXPECT_EQ(choice_seed(42, 0), 42U);
  EXPECT_NE(choice_seed(42, 1), choice_seed(42, 2));
  EXPECT_NE(choice_seed(42, 1), choice_seed(43, 1));
}

}  // namespace
}  // namespace fulgur::router
