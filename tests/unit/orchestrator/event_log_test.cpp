// The event log by itself, and what the coordinator writes into it.
#include "services/orchestrator/event_log.hpp"

#include <gtest/gtest.h>

#include "orchestrator/healthy_mesh.hpp"

namespace fulgur::orchestrator {
namespace {

using wire::ServiceKind;

TEST(EventLog, KeepsTheNewestInOrder) {
  ManualClock clock;
  EventLog log(clock, {.entries = 3});
  for (int i = 1; i <= 5; ++i) {
    clock.advance(kSecond);
    log.add(Severity::info, "joined", "expert-" + std::to_string(i), "text");
  }
  const auto all = log.since(0);
  ASSERT_EQ(all.size(), 3U);
  EXPECT_EQ(all.front().member, "expert-3");
  EXPECT_EQ(all.front().id, 3U);
  EXPECT_EQ(all.back().at, clock.wall_now());
  EXPECT_EQ(log.last_id(), 5U);
  ASSERT_EQ(log.since(4).size(), 1U);
  EXPECT_EQ(log.since(4).front().member, "expert-5");
  EXPECT_TRUE(log.since(5).empty());
  EXPECT_TRUE(log.since(99).empty());
}

TEST(EventLog, ARepeatTakesTheOldPlaceAndCounts) {
  ManualClock clock;
  EventLog log(clock, {.entries = 8, .repeats_within = 2});
  log.add(Severity::warning, "refused", "expert-9", "another model");
  log.add(Severity::info, "joined", "expert-1", "");
  log.add(Severity::warning, "refused", "expert-9", "another model");
  ASSERT_EQ(log.since(0).size(), 2U);
  EXPECT_EQ(log.since(0).back().count, 2U);
  EXPECT_EQ(log.since(0).back().replaces, 1U);
  EXPECT_EQ(log.since(0).back().id, 3U);
  log.add(Severity::info, "joined", "expert-2", "");
  log.add(Severity::info, "joined", "expert-3", "");
  log.add(Severity::warning, "refused", "expert-9", "another model");
  EXPECT_EQ(log.since(0).size(), 5U) << "too long ago to be the same";
  EXPECT_EQ(log.since(0).back().count, 1U);
}

TEST(EventLog, BoundsTexts) {
  ManualClock clock;
  EventLog log(clock, {.text_bytes = 4});
  log.add(Severity::info, "joined", "expert-0", "abcdefgh");
  EXPECT_EQ(log.since(0).front().text, "abcd");
}

/// The kinds of what was said about `member` after entry `since`, in order.
std::vector<std::string> kinds(ScriptedMesh& mesh, const std::string& member,
                               std::uint64_t since = 0) {
  std::vector<std::string> kinds;
  for (const Event& event : mesh.coordinator().events().since(since))
    if (event.member == member) kinds.emplace_back(event.kind);
  return kinds;
}

using Kinds = std::vector<std::string>;

TEST(MeshEvents, TellTheLifeOfAMesh) {
  ScriptedMesh mesh(expecting(3, 1));
  start_members(mesh, 3);
  mesh.run();
  mesh.pass(kSecond);
  EXPECT_EQ(kinds(mesh, "expert-1"), Kinds{"joined"});
  EXPECT_EQ(kinds(mesh, ""), (Kinds{"preparing", "committed", "retired", "serving"}));

  const std::uint64_t whole = mesh.coordinator().events().last_id();
  mesh.kill("expert-1");
  EXPECT_EQ(kinds(mesh, "expert-1", whole), Kinds{"suspect"});
  mesh.pass(2 * kSecond);
  EXPECT_EQ(kinds(mesh, "expert-1", whole), (Kinds{"suspect", "lost"}));
  EXPECT_EQ(kinds(mesh, "", whole), (Kinds{"preparing", "committed", "retired"}));
  for (const Event& event : mesh.coordinator().events().since(whole))
    if (event.kind == "lost") {
      EXPECT_EQ(event.severity, Severity::error);
    }

  const std::uint64_t lost = mesh.coordinator().events().last_id();
  mesh.start(ServiceKind::expert, "expert-1");
  mesh.pass(kSecond);
  mesh.start(ServiceKind::expert, "expert-1");  // its death was not noticed
  mesh.pass(kSecond);
  EXPECT_EQ(kinds(mesh, "expert-1", lost), (Kinds{"joined", "restarted"}));
}

TEST(MeshEvents, TellDrains) {
  ScriptedMesh mesh(expecting(2, 1));
  start_members(mesh, 2);
  mesh.run();
  EXPECT_FALSE(mesh.coordinator().drain({"attention-0"}).is_ok());
  EXPECT_EQ(kinds(mesh, "attention-0"), (Kinds{"joined", "drain refused"}));
  EXPECT_TRUE(mesh.coordinator().drain({"expert-1"}).is_ok());
  mesh.pass(2 * kSecond);
  EXPECT_EQ(kinds(mesh, "expert-1"), (Kinds{"joined", "draining", "left"}));
}

TEST(MeshEvents, ASuspectThatSpeaksIsAliveAgain) {
  ScriptedMesh mesh(expecting(2, 1));
  start_members(mesh, 2);
  mesh.run();
  mesh.coordinator().on_report({"attention-0", "expert-0", 1, Code::unavailable});
  EXPECT_EQ(kinds(mesh, "expert-0"), (Kinds{"joined", "suspect"}));
  mesh.pass(kSecond);
  EXPECT_EQ(kinds(mesh, "expert-0"), (Kinds{"joined", "suspect", "alive"}));
}

TEST(MeshEvents, TellRefusalsAndSteppingDown) {
  ScriptedMesh mesh(expecting(2, 1));
  start_members(mesh, 2);
  mesh.run();
  wire::Register stranger = mesh.peer("expert-0").info;
  stranger.name = "expert-9";
  stranger.model_fingerprint = 8;
  for (int i = 0; i < 3; ++i) mesh.coordinator().on_register(99, stranger);
  const auto refused = mesh.coordinator().events().since(0).back();
  EXPECT_EQ(refused.kind, "refused");
  EXPECT_EQ(refused.member, "expert-9");
  EXPECT_EQ(refused.count, 3U);
  EXPECT_NE(refused.text.find("0000000000000008"), std::string::npos) << refused.text;

  wire::Heartbeat beat;
  beat.name = "expert-0";
  beat.incarnation = 1;
  beat.orchestrator_generation = 50;
  mesh.coordinator().on_heartbeat(mesh.link("expert-0"), beat);
  const auto down = mesh.coordinator().events().since(0).back();
  EXPECT_EQ(down.kind, "stepped down");
  EXPECT_EQ(down.severity, Severity::error);
}

TEST(MeshEvents, TellSlowWorkersOnce) {
  ScriptedMesh mesh(expecting(2, 1));
  start_members(mesh, 2);
  mesh.run();
  const auto beat = [&](float speed, bool slow) {
    wire::Heartbeat shard;
    shard.name = "attention-0";
    shard.incarnation = 1;
    shard.workers = {{"expert-1", 1, speed, slow, true}};
    mesh.coordinator().on_heartbeat(mesh.link("attention-0"), shard);
  };
  for (int i = 0; i < 3; ++i) beat(0.1F, true);
  beat(0.9F, false);
  EXPECT_EQ(kinds(mesh, "expert-1"), (Kinds{"joined", "slow", "not slow"}));
}

}  // namespace
}  // namespace fulgur::orchestrator
