#include <gtest/gtest.h>

#include "tests/unit/router/fake_mesh.hpp"

namespace fulgur::router {
namespace {

using nlohmann::json;
using testing::Call;
using testing::FakeMesh;

constexpr const char* kStream =
    R"({"prompt":"Tell me","max_tokens":12,"stream":true,"seed":3,"return_token_ids":true,
       "stream_options":{"include_usage":true}})";

/// Ids of all chunks; the stream must be whole: no token twice, none missing.
std::vector<std::uint32_t> ids_of(const std::vector<std::string>& events) {
  std::vector<std::uint32_t> ids;
  for (const auto& event : events) {
    if (event == "[DONE]") continue;
    const json chunk = json::parse(event);
    EXPECT_FALSE(chunk.contains("error")) << event;
    for (const auto& choice : chunk["choices"]) {
      for (const auto& id : choice["token_ids"]) ids.push_back(id);
    }
  }
  return ids;
}

std::vector<std::uint32_t> first(const std::vector<std::uint32_t>& script, std::size_t count) {
  return {script.begin(), script.begin() + static_cast<std::ptrdiff_t>(count)};
}

/// The name of the shard that was given a sequence.
std::string chosen(FakeMesh& mesh, const std::vector<std::string>& names) {
  std::string found;
  mesh.wait_until([&] {
    for (const auto& name : names) {
      if (!mesh.shard(name).heard<wire::Submit>().empty()) found = name;
    }
    return !found.empty();
  });
  return found;
}

TEST(RouterFailover, ContinuesOnAnotherShard) {
  FakeMesh mesh({}, {"shard-0", "shard-1"});
  Call call(mesh, "/v1/completions", kStream);
  const std::string lost = chosen(mesh, {"shard-0", "shard-1"});
  const std::string other = lost == "shard-0" ? "shard-1" : "shard-0";
  const wire::Submit before = mesh.submitted(lost);
  mesh.generate(lost, before, 0, 5);
  for (std::size_t i = 0; i < 5; ++i) call.next_event();
  mesh.kill_shard(lost);
  const wire::Submit after = mesh.submitted(other);
  std::vector<std::uint32_t> expected = before.tokens;
  const auto generated = first(mesh.script(), 5);
  expected.insert(expected.end(), generated.begin(), generated.end());
  EXPECT_EQ(after.tokens, expected);
  EXPECT_EQ(after.prompt_tokens, before.prompt_tokens);
  EXPECT_EQ(after.max_new_tokens, 12U);
  EXPECT_EQ(after.sampling.seed, before.sampling.seed);
  EXPECT_NE(after.request, before.request);
  mesh.generate(other, after, 5, 7);
  mesh.finish(other, after.request, wire::FinishReason::length);
  const auto events = call.events();
  auto ids = first(mesh.script(), 5);
  const auto rest = ids_of(events);
  ids.insert(ids.end(), rest.begin(), rest.end());
  EXPECT_EQ(ids, first(mesh.script(), 12));
  EXPECT_EQ(json::parse(events.at(events.size() - 2))["usage"]["completion_tokens"], 12);
}

TEST(RouterFailover, WaitsForTheOnlyShardToComeBack) {
  FakeMesh mesh;
  Call call(mesh, "/v1/completions", kStream);
  const wire::Submit before = mesh.submitted("shard-0");
  mesh.generate("shard-0", before, 0, 4);
  for (std::size_t i = 0; i < 4; ++i) call.next_event();
  mesh.kill_shard("shard-0");
  mesh.wait_until([&] { return !mesh.service().ready(); });
  EXPECT_EQ(Call(mesh, "/v1/completions", R"({"prompt":"x"})").status(), 503);
  mesh.start_shard("shard-0");
  const wire::Submit after = mesh.submitted("shard-0");
  EXPECT_EQ(after.tokens.size(), before.tokens.size() + 4);
  mesh.generate("shard-0", after, 4, 8);
  const auto rest = ids_of(call.events());
  EXPECT_EQ(rest, std::vector<std::uint32_t>(mesh.script().begin() + 4, mesh.script().begin() + 12));
}

TEST(RouterFailover, RepeatedTokensCountOnceAndLateOnesNotAtAll) {
  FakeMesh mesh;
  Call call(mesh, "/v1/completions", kStream);
  const wire::Submit submit = mesh.submitted("shard-0");
  mesh.generate("shard-0", submit, 0, 3);
  mesh.generate("shard-0", submit, 1, 2);
  mesh.generate("shard-0", submit, 3, 9);
  mesh.generate("shard-0", submit, 12, 1);  // beyond max_tokens
  mesh.finish("shard-0", submit.request, wire::FinishReason::length);
  mesh.finish("shard-0", submit.request, wire::FinishReason::length);
  EXPECT_EQ(ids_of(call.events()), first(mesh.script(), 12));
}

TEST(RouterFailover, AMissingTokenIsGeneratedAgain) {
  FakeMesh mesh;
  Call call(mesh, "/v1/completions", kStream);
  const wire::Submit before = mesh.submitted("shard-0");
  mesh.generate("shard-0", before, 0, 2);
  mesh.generate("shard-0", before, 3, 1);
  mesh.wait_for_cancel("shard-0", before.request);
  const wire::Submit after = mesh.submitted("shard-0", 1);
  EXPECT_EQ(after.tokens.size(), before.tokens.size() + 2);
  mesh.generate("shard-0", before, 4, 1);  // of the given-up submission: ignored
  mesh.generate("shard-0", after, 2, 10);
  EXPECT_EQ(ids_of(call.events()), first(mesh.script(), 12));
}

TEST(RouterFailover, ADoneThatCountsMoreTokensIsNoEnd) {
  FakeMesh mesh;
  Call call(mesh, "/v1/completions", kStream);
  const wire::Submit before = mesh.submitted("shard-0");
  mesh.generate("shard-0", before, 0, 10);
  mesh.shard("shard-0").send(
      wire::Done{before.request, wire::FinishReason::length, Code::ok, "", 12});
  const wire::Submit after = mesh.submitted("shard-0", 1);
  EXPECT_EQ(after.tokens.size(), before.tokens.size() + 10);
  mesh.generate("shard-0", after, 10, 2);
  EXPECT_EQ(ids_of(call.events()), first(mesh.script(), 12));
}

TEST(RouterFailover, ABusyShardIsLeftForAnother) {
  FakeMesh mesh({}, {"shard-0", "shard-1"});
  Call call(mesh, "/v1/completions", R"({"prompt":"x","max_tokens":2})");
  const std::string busy = chosen(mesh, {"shard-0", "shard-1"});
  const std::string other = busy == "shard-0" ? "shard-1" : "shard-0";
  mesh.finish(busy, mesh.submitted(busy).request, wire::FinishReason::error,
              Code::resource_exhausted, "no state slot is free");
  const wire::Submit submit = mesh.submitted(other);
  mesh.generate(other, submit, 0, 2);
  EXPECT_EQ(call.status(), 200);
}

TEST(RouterFailover, AllShardsBusyIs429) {
  FakeMesh mesh;
  Call call(mesh, "/v1/completions", R"({"prompt":"x","stream":true})");
  mesh.finish("shard-0", mesh.submitted("shard-0").request, wire::FinishReason::error,
              Code::resource_exhausted, "no state slot is free");
  EXPECT_EQ(call.status(), 429);
  EXPECT_NE(call.head().find("Retry-After: "), std::string::npos);
  EXPECT_EQ(call.json()["error"]["type"], "rate_limit_error");
}

TEST(RouterFailover, OneThatLostItsShardWaitsForAFullOne) {
  FakeMesh mesh({}, {"shard-0", "shard-1"});
  Call call(mesh, "/v1/completions", kStream);
  const std::string lost = chosen(mesh, {"shard-0", "shard-1"});
  const std::string full = lost == "shard-0" ? "shard-1" : "shard-0";
  mesh.submitted(lost);
  mesh.kill_shard(lost);
  mesh.finish(full, mesh.submitted(full).request, wire::FinishReason::error,
              Code::resource_exhausted, "2 requests are waiting already");
  mesh.generate(full, mesh.submitted(full, 1), 0, 12);  // asked again half a second later
  EXPECT_EQ(ids_of(call.events()), first(mesh.script(), 12));
}

TEST(RouterFailover, AChoiceWaitsWhenAnotherHasBegun) {
  FakeMesh mesh;
  Call call(mesh, "/v1/completions", R"({"prompt":"x","max_tokens":2,"n":2,"stream":true})");
  const wire::Submit begun = mesh.submitted("shard-0");
  mesh.generate("shard-0", begun, 0, 1);
  EXPECT_NE(call.next_event().find("choices"), std::string::npos);
  mesh.finish("shard-0", mesh.submitted("shard-0", 1).request, wire::FinishReason::error,
              Code::resource_exhausted, "2 requests are waiting already");
  mesh.generate("shard-0", mesh.submitted("shard-0", 2), 0, 2);
  mesh.generate("shard-0", begun, 1, 1);
  for (const std::string& event : call.events())
    EXPECT_EQ(event.find("error"), std::string::npos) << event;
}

TEST(RouterFailover, ADrainingShardHandsItsSequencesOver) {
  FakeMesh mesh({}, {"shard-0", "shard-1"});
  Call call(mesh, "/v1/completions", kStream);
  const std::string leaving = chosen(mesh, {"shard-0", "shard-1"});
  const std::string other = leaving == "shard-0" ? "shard-1" : "shard-0";
  const wire::Submit before = mesh.submitted(leaving);
  mesh.generate(leaving, before, 0, 3);
  mesh.finish(leaving, before.request, wire::FinishReason::cancelled);
  const wire::Submit after = mesh.submitted(other);
  mesh.generate(other, after, 3, 9);
  EXPECT_EQ(ids_of(call.events()), first(mesh.script(), 12));
}

TEST(RouterFailover, ASequenceFollowsItsState) {
  const std::vector<std::string> shards = {"shard-0", "shard-1", "shard-2"};
  FakeMesh mesh({}, shards);
  Call call(mesh, "/v1/completions", kStream);
  const std::string leaving = chosen(mesh, shards);
  const std::string target = leaving == "shard-2" ? "shard-1" : "shard-2";
  const wire::Submit before = mesh.submitted(leaving);
  EXPECT_EQ(before.snapshot, 0U);
  mesh.generate(leaving, before, 0, 3);
  wire::Done moved;
  moved.request = before.request;
  moved.reason = wire::FinishReason::error;
  moved.code = Code::unavailable;
  moved.draining = true;
  moved.moved_to = target;
  moved.snapshot = 77;
  mesh.shard(leaving).send(moved);
  const wire::Submit after = mesh.submitted(target);
  EXPECT_EQ(after.snapshot, 77U);
  EXPECT_EQ(after.tokens.size(), before.tokens.size() + 3);
  // Lost there: from now on it is an ordinary submission, and never to the shard that leaves.
  mesh.kill_shard(target);
  const std::string last = leaving == "shard-0" || target == "shard-0"
                               ? (leaving == "shard-1" || target == "shard-1" ? "shard-2" : "shard-1")
                               : "shard-0";
  const wire::Submit again = mesh.submitted(last);
  EXPECT_EQ(again.snapshot, 0U);
  mesh.generate(last, again, 3, 9);
  EXPECT_EQ(ids_of(call.events()), first(mesh.script(), 12));
  EXPECT_EQ(mesh.service().metrics().moves.Value(), 1);
}

TEST(RouterFailover, AMoveToAnUnknownShardIsAnOrdinarySubmission) {
  FakeMesh mesh({}, {"shard-0", "shard-1"});
  Call call(mesh, "/v1/completions", kStream);
  const std::string leaving = chosen(mesh, {"shard-0", "shard-1"});
  const std::string other = leaving == "shard-0" ? "shard-1" : "shard-0";
  wire::Done moved;
  moved.request = mesh.submitted(leaving).request;
  moved.reason = wire::FinishReason::error;
  moved.code = Code::unavailable;
  moved.moved_to = "nowhere";
  mesh.shard(leaving).send(moved);
  mesh.generate(other, mesh.submitted(other), 0, 12);
  EXPECT_EQ(ids_of(call.events()), first(mesh.script(), 12));
}

TEST(RouterFailover, AShardThatLeavesGetsNothingUntilItIsBack) {
  FakeMesh mesh;
  Call call(mesh, "/v1/completions", kStream);
  wire::Done leaving;
  leaving.request = mesh.submitted("shard-0").request;
  leaving.reason = wire::FinishReason::error;
  leaving.code = Code::unavailable;
  leaving.draining = true;
  mesh.shard("shard-0").send(leaving);
  mesh.wait_until([&] { return !mesh.service().ready(); });
  EXPECT_EQ(mesh.shard("shard-0").heard<wire::Submit>().size(), 1U);
  mesh.kill_shard("shard-0");
  mesh.wait_until([&] { return mesh.service().metrics().shards_up.Value() == 0; });
  mesh.start_shard("shard-0");
  mesh.generate("shard-0", mesh.submitted("shard-0"), 0, 12);
  EXPECT_EQ(ids_of(call.events()), first(mesh.script(), 12));
}

TEST(RouterFailover, ALaterPlacementWinsAndAnOlderIsIgnored) {
  FakeMesh mesh;
  mesh.start_shard("shard-9");
  mesh.publish({"shard-9"});
  wire::Placement old;
  old.epoch = 1;
  old.orchestrator_generation = 1;
  old.shards = {{"shard-0", 1, "inproc://shard-0", true}};
  mesh.orchestrator().send(old);
  Call call(mesh, "/v1/completions", R"({"prompt":"x","max_tokens":1})");
  mesh.generate("shard-9", mesh.submitted("shard-9"), 0, 1);
  EXPECT_EQ(call.status(), 200);
}

}  // namespace
}  // namespace fulgur::router
