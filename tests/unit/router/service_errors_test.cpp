#include <gtest/gtest.h>

#include "tests/unit/router/fake_mesh.hpp"

namespace fulgur::router {
namespace {

using nlohmann::json;
using testing::Call;
using testing::FakeMesh;

constexpr const char* kCompletions = "/v1/completions";

TEST(RouterErrors, AreShapedLikeOpenAis) {
  FakeMesh mesh;
  const auto error = [&](std::string_view path, std::string_view body) {
    Call call(mesh, path, body);
    json answer = call.json()["error"];
    answer["status"] = call.status();
    return answer;
  };
  json wrong = error(kCompletions, R"({"prompt":"x","temperature":9})");
  EXPECT_EQ(wrong["status"], 400);
  EXPECT_EQ(wrong["type"], "invalid_request_error");
  EXPECT_EQ(wrong["param"], "temperature");
  wrong = error(kCompletions, R"({"prompt":"x","model":"gpt-5"})");
  EXPECT_EQ(wrong["status"], 404);
  EXPECT_EQ(wrong["code"], "model_not_found");
  wrong = error(kCompletions, R"({"prompt":"")");
  EXPECT_EQ(wrong["status"], 400);
  EXPECT_TRUE(wrong["param"].is_null());
  wrong = error(kCompletions, R"({"prompt":""})");
  EXPECT_EQ(wrong["param"], "prompt");
  wrong = error("/v1/nothing", "{}");
  EXPECT_EQ(wrong["status"], 404);
  wrong = error("/v1/models", "{}");
  EXPECT_EQ(wrong["status"], 405);
  wrong = error("/detokenize", R"({"tokens":[5000]})");
  EXPECT_EQ(wrong["param"], "tokens");
}

TEST(RouterErrors, APromptLongerThanTheContextIsNamed) {
  FakeMesh mesh;
  std::string ids = "[1";
  for (std::uint64_t i = 1; i < mesh.model().limits().context_max; ++i) ids += ",1";
  Call call(mesh, kCompletions, R"({"prompt":)" + ids + "]}");
  EXPECT_EQ(call.status(), 400);
  EXPECT_EQ(call.json()["error"]["code"], "context_length_exceeded");
  EXPECT_EQ(call.json()["error"]["param"], "prompt");
}

TEST(RouterErrors, MoreSequencesThanThereArePlacesAreNoReasonToWait) {
  ServiceOptions options;
  options.requests_max = 4;
  FakeMesh mesh(options);
  Call many(mesh, kCompletions, R"({"prompt":"x","n":8})");
  EXPECT_EQ(many.status(), 400);
  EXPECT_EQ(many.json()["error"]["param"], "n");
  Call list(mesh, kCompletions, R"({"prompt":["a","b","c","d","e"]})");
  EXPECT_EQ(list.status(), 400);
  EXPECT_EQ(list.json()["error"]["param"], "prompt");
}

// Bodies within the limit that would take many times their size to hold.
TEST(RouterErrors, ABodyOfCountlessSmallPartsIsRefusedBeforeItIsBuilt) {
  FakeMesh mesh;
  const auto repeated = [](std::string_view piece, std::size_t count) {
    std::string text;
    for (std::size_t i = 0; i < count; ++i) text += piece;
    return text;
  };
  Call lists(mesh, kCompletions, R"({"prompt":["x")" + repeated(",[]", 70'000) + "]}");
  EXPECT_EQ(lists.status(), 400);
  EXPECT_EQ(lists.json()["error"]["message"],
            "the body holds more than 65536 lists and objects");
  Call numbers(mesh, "/detokenize", R"({"tokens":[1)" + repeated(",1", 5'300'000) + "]}");
  EXPECT_EQ(numbers.status(), 400);
  EXPECT_EQ(numbers.json()["error"]["message"], "the body holds more than 5242880 values");
}

TEST(RouterErrors, TokeniseNamesTheFieldThatIsWrong) {
  FakeMesh mesh;
  Call call(mesh, "/tokenize", R"({"messages":[{"role":"user","content":"x"}],"tools":5})");
  EXPECT_EQ(call.status(), 400);
  EXPECT_EQ(call.json()["error"]["param"], "tools");
}

TEST(RouterErrors, AnOversizedBodyIs413) {
  ServiceOptions options;
  options.body_bytes_max = 2000;
  FakeMesh mesh(options);
  Call call(mesh, kCompletions, R"({"prompt":")" + std::string(3000, 'x') + "\"}");
  EXPECT_EQ(call.status(), 413);
  EXPECT_EQ(call.json()["error"]["type"], "invalid_request_error");
}

TEST(RouterErrors, WithoutAShardThereIsA503) {
  FakeMesh mesh({}, {});
  Call call(mesh, kCompletions, R"({"prompt":"x"})");
  EXPECT_EQ(call.status(), 503);
  EXPECT_NE(call.head().find("Retry-After: "), std::string::npos);
  EXPECT_EQ(Call(mesh, "/readyz", "").status(), 503);
}

TEST(RouterErrors, TheKeyIsAskedForOnTheApiOnly) {
  ServiceOptions options;
  options.api_key = "secret";
  FakeMesh mesh(options);
  EXPECT_EQ(Call(mesh, "/v1/models", "").status(), 401);
  EXPECT_EQ(Call(mesh, "/v1/models", "", "Authorization: Bearer secre\r\n").status(), 401);
  EXPECT_EQ(Call(mesh, "/v1/models", "", "Authorization: Bearer secret\r\n").status(), 200);
  Call refused(mesh, "/tokenize", R"({"prompt":"x"})", "Authorization: Basic secret\r\n");
  EXPECT_EQ(refused.json()["error"]["code"], "invalid_api_key");
  EXPECT_EQ(Call(mesh, "/healthz", "").status(), 200);
  EXPECT_EQ(Call(mesh, "/", "").status(), 200);
}

TEST(RouterErrors, AdmissionIsBoundedAndPlacesComeBack) {
  ServiceOptions options;
  options.requests_max = 2;
  FakeMesh mesh(options);
  Call running(mesh, kCompletions, R"({"prompt":"x","n":2,"max_tokens":1})");
  const wire::Submit first = mesh.submitted("shard-0", 0);
  const wire::Submit second = mesh.submitted("shard-0", 1);
  Call refused(mesh, kCompletions, R"({"prompt":"x"})");
  EXPECT_EQ(refused.status(), 429);
  EXPECT_NE(refused.head().find("Retry-After: "), std::string::npos);
  mesh.generate("shard-0", first, 0, 1);
  mesh.generate("shard-0", second, 0, 1);
  EXPECT_EQ(running.status(), 200);
  mesh.wait_until([&] { return mesh.service().metrics().running.Value() == 0; });
  Call again(mesh, kCompletions, R"({"prompt":"x","max_tokens":1})");
  mesh.generate("shard-0", mesh.submitted("shard-0", 2), 0, 1);
  EXPECT_EQ(again.status(), 200);
}

TEST(RouterErrors, TheDeadlineEndsARequestAndCancelsIt) {
  ServiceOptions options;
  options.request_timeout = kMillisecond;
  FakeMesh mesh(options);
  Call whole(mesh, kCompletions, R"({"prompt":"x"})");
  const wire::Submit submit = mesh.submitted("shard-0");
  mesh.wait_for_cancel("shard-0", submit.request);
  EXPECT_EQ(whole.status(), 504);
}

TEST(RouterErrors, AShardsVerdictReachesTheClient) {
  FakeMesh mesh;
  Call whole(mesh, kCompletions, R"({"prompt":"x"})");
  mesh.finish("shard-0", mesh.submitted("shard-0").request, wire::FinishReason::error,
              Code::invalid_argument, "the prompt does not fit the KV cache");
  EXPECT_EQ(whole.status(), 400);
  EXPECT_EQ(whole.json()["error"]["message"], "the prompt does not fit the KV cache");
}

TEST(RouterErrors, AFailureInsideAStreamIsAnEvent) {
  FakeMesh mesh;
  Call call(mesh, kCompletions, R"({"prompt":"x","stream":true})");
  const wire::Submit submit = mesh.submitted("shard-0");
  mesh.generate("shard-0", submit, 0, 1);
  call.next_event();
  mesh.finish("shard-0", submit.request, wire::FinishReason::error, Code::invalid_argument, "no");
  EXPECT_EQ(json::parse(call.next_event())["error"]["message"], "no");
  EXPECT_EQ(call.next_event(), "[DONE]");
}

}  // namespace
}  // namespace fulgur::router
