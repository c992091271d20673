// What makes the mesh elastic, on virtual time: load and speed reach the plan, urgency reaches the
// workers, cuts and slow workers are seen, and one of two orchestrators steps down.
#include <gtest/gtest.h>

#include "common/base/rng.hpp"
#include "orchestrator/healthy_mesh.hpp"
#include "wire/random_message.hpp"

namespace fulgur::orchestrator {
namespace {

using wire::ServiceKind;

wire::Heartbeat beat_of(ScriptedMesh& mesh, const std::string& name) {
  wire::Heartbeat beat;
  beat.name = name;
  beat.incarnation = mesh.peer(name).info.incarnation;
  beat.epoch = mesh.peer(name).info.epoch;
  return beat;
}

TEST(Urgency, OnlyWhatNobodyServesIsUrgent) {
  ScriptedMesh mesh(expecting(2, 1));
  start_members(mesh, 2);
  mesh.run();
  EXPECT_EQ(replicas_of(mesh.peer("expert-0").last_prepare.urgent).count(), kShape.cells())
      << "at the start nobody serves anything";
  mesh.start(ServiceKind::expert, "expert-2");
  mesh.run();
  EXPECT_TRUE(mesh.peer("expert-2").last_prepare.urgent.empty()) << "others serve all of it";
  mesh.kill("expert-0");
  mesh.kill("expert-1");
  mesh.pass(2 * kSecond);
  const auto& prepare = mesh.peer("expert-2").last_prepare;
  ASSERT_FALSE(prepare.urgent.empty());
  EXPECT_EQ(replicas_of(prepare.urgent).count_missing_in(replicas_of(prepare.replicas)), 0U);
  EXPECT_EQ(replicas_of(prepare.urgent).count(), kShape.cells() / 3) << "what it does not hold";
  expect_healthy(mesh, 1);
}

TEST(Rebalance, HappensWhileServingAndNotTooOften) {
  CoordinatorOptions options = expecting(4, 1);
  options.epochs.replicas = 1;
  options.epochs.rebalance_interval = 30 * kSecond;
  options.epochs.policy.tokens_min = 100;
  ScriptedMesh mesh(options);
  start_members(mesh, 4);
  mesh.run();
  const std::uint64_t moves = mesh.coordinator().epochs().moves_total();
  // All of a layer's tokens go to the experts of one worker.
  const ReplicaMap hot = mesh.peer("expert-1").held;
  const auto feed = [&] {
    wire::Heartbeat beat = beat_of(mesh, "expert-1");
    for (std::uint16_t layer = 0; layer < kShape.layers; ++layer)
      for (std::uint16_t expert = 0; expert < kShape.experts; ++expert)
        beat.expert_tokens.push_back({layer, expert, hot.contains(layer, expert) ? 5000U : 10U});
    mesh.coordinator().on_heartbeat(mesh.link("expert-1"), beat);
  };
  feed();
  mesh.pass(28 * kSecond);
  EXPECT_EQ(mesh.coordinator().epochs().rebalances_total(), 0U) << "the interval has not passed";
  feed();
  mesh.pass(4 * kSecond);
  EXPECT_EQ(mesh.coordinator().epochs().rebalances_total(), 1U);
  EXPECT_GT(mesh.coordinator().epochs().moves_total(), moves);
  EXPECT_LT(mesh.peer("expert-1").held.count_missing_in(hot) + hot.count(), kShape.cells());
  EXPECT_GT(hot.count_missing_in(mesh.peer("expert-1").held), 0U) << "hot experts went elsewhere";
  // The same load again is balanced by now: nothing moves to and fro.
  for (int i = 0; i < 4; ++i) {
    feed();
    mesh.pass(31 * kSecond);
  }
  EXPECT_LE(mesh.coordinator().epochs().rebalances_total(), 2U);
  EXPECT_TRUE(mesh.coordinator().serving().is_ok());
}

TEST(Rebalance, OffMeansOff) {
  ScriptedMesh mesh(expecting(4, 1));
  start_members(mesh, 4);
  mesh.run();
  wire::Heartbeat beat = beat_of(mesh, "expert-1");
  beat.expert_tokens = {{0, 0, 1'000'000}};
  mesh.coordinator().on_heartbeat(mesh.link("expert-1"), beat);
  mesh.pass(300 * kSecond);
  EXPECT_EQ(mesh.coordinator().epochs().rebalances_total(), 0U);
  EXPECT_EQ(mesh.coordinator().epochs().balance(), 0);
}

TEST(Cut, AWorkerThatOneShardCannotReachIsNotLost) {
  ScriptedMesh mesh(expecting(2, 2));
  mesh.start(ServiceKind::attention, "attention-1");
  start_members(mesh, 2);
  mesh.run();
  const std::uint64_t epoch = mesh.coordinator().epochs().epoch();
  for (int i = 0; i < 20; ++i) {
    for (const char* shard : {"attention-0", "attention-1"})
      mesh.coordinator().on_report({shard, "expert-0", 1, Code::unavailable});
    mesh.pass(kSecond / 2);
  }
  EXPECT_EQ(mesh.coordinator().counters().losses, 0U);
  EXPECT_EQ(mesh.coordinator().epochs().epoch(), epoch) << "nothing was planned";
  wire::Heartbeat beat = beat_of(mesh, "attention-0");
  beat.workers = {{"expert-0", 1, 0, false, false}, {"expert-1", 1, 1, false, true}};
  mesh.coordinator().on_heartbeat(mesh.link("attention-0"), beat);
  const Member& worker = *mesh.coordinator().members().find("expert-0");
  EXPECT_EQ(mesh.coordinator().seen(worker).unreachable_by,
            std::vector<std::string>{"attention-0"});
  // One that is reported and silent is lost at once.
  mesh.peer("expert-0").alive = false;
  mesh.pass(2 * kSecond);
  mesh.coordinator().on_report({"attention-1", "expert-0", 1, Code::unavailable});
  EXPECT_EQ(mesh.coordinator().counters().losses, 1U);
}

TEST(Slow, AWorkerIsNamedSlowAndPlannedAsSlow) {
  ScriptedMesh mesh(expecting(2, 1));
  start_members(mesh, 2);
  mesh.run();
  wire::Heartbeat beat = beat_of(mesh, "attention-0");
  beat.workers = {{"expert-0", 1, 0.1F, true, true}, {"expert-1", 1, 1, false, true}};
  mesh.coordinator().on_heartbeat(mesh.link("attention-0"), beat);
  const Member& worker = *mesh.coordinator().members().find("expert-0");
  EXPECT_TRUE(mesh.coordinator().seen(worker).slow);
  EXPECT_NEAR(mesh.coordinator().seen(worker).speed, 0.1, 1e-6);
  EXPECT_EQ(worker.state, MemberState::alive);
  beat.workers[0] = {"expert-0", 1, 0.9F, false, true};
  mesh.coordinator().on_heartbeat(mesh.link("attention-0"), beat);
  EXPECT_FALSE(mesh.coordinator().seen(worker).slow);
}

TEST(Pools, HeartbeatsBecomeWantedSizes) {
  ScriptedMesh mesh(expecting(2, 1));
  start_members(mesh, 2);
  mesh.run();
  wire::Load load;
  for (int i = 0; i < 60; ++i) {
    load.busy_ns_total += 490 * kMillisecond;  // of half a second
    for (const char* name : {"expert-0", "expert-1"}) {
      wire::Heartbeat beat = beat_of(mesh, name);
      beat.load = load;
      mesh.coordinator().on_heartbeat(mesh.link(name), beat);
    }
    mesh.pass_silently(kSecond / 2);
  }
  EXPECT_EQ(mesh.coordinator().pools().experts().replicas(), 2U);
  EXPECT_EQ(mesh.coordinator().pools().experts().wanted(), 3U) << "2 * 0.98 / 0.7";
  EXPECT_EQ(mesh.coordinator().pools().attention().wanted(), 1U);
}

// ---------------------------------------------------------------- two orchestrators

TEST(Fencing, TheOneThatMembersDoNotObeyStepsDown) {
  ScriptedMesh mesh(expecting(2, 1));
  start_members(mesh, 2);
  mesh.run();
  const std::uint64_t mine = mesh.coordinator().epochs().generation();
  wire::Heartbeat beat = beat_of(mesh, "expert-0");
  beat.orchestrator_generation = mine;
  mesh.coordinator().on_heartbeat(mesh.link("expert-0"), beat);
  EXPECT_EQ(mesh.coordinator().superseded_by(), 0U);
  beat.orchestrator_generation = mine + 5;
  mesh.coordinator().on_heartbeat(mesh.link("expert-0"), beat);
  EXPECT_EQ(mesh.coordinator().superseded_by(), mine + 5);
  EXPECT_EQ(mesh.coordinator().serving().message(),
            "superseded by the orchestrator of generation " + std::to_string(mine + 5));
  // It neither sends nor decides anything any more.
  const std::uint64_t delivered = mesh.delivered();
  mesh.start(ServiceKind::expert, "expert-2");
  mesh.kill("expert-1");
  EXPECT_EQ(mesh.coordinator().drain({"expert-0"}).code(), Code::failed_precondition);
  mesh.pass(20 * kSecond);
  EXPECT_EQ(mesh.delivered(), delivered);
}

TEST(Fencing, TheOneThatJustStartedTakesAHigherNumber) {
  ScriptedMesh mesh(expecting(2, 1));
  start_members(mesh, 1);
  mesh.run();
  // It was started by a clock that runs behind: members know a larger generation.
  mesh.peer("expert-0").info.orchestrator_generation = 1000;
  mesh.announce("expert-0");
  mesh.start(ServiceKind::expert, "expert-1");
  mesh.run();
  EXPECT_EQ(mesh.coordinator().epochs().generation(), 1001U);
  EXPECT_EQ(mesh.peer("attention-0").placement.orchestrator_generation, 1001U);
  expect_healthy(mesh, 2);
}

TEST(ComesBack, ANewProcessReplacesTheOldOneAndTheOldOneIsRefused) {
  ScriptedMesh mesh(expecting(2, 1));
  start_members(mesh, 2);
  mesh.run();
  const wire::Register old = mesh.peer("expert-1").info;
  const transport::LinkId old_link = mesh.link("expert-1");
  mesh.start(ServiceKind::expert, "expert-1");  // the old one has not been seen to die
  mesh.run();
  expect_healthy(mesh, 2);
  const std::uint64_t epoch = mesh.coordinator().epochs().epoch();
  mesh.coordinator().on_register(old_link, old);
  wire::Heartbeat beat = beat_of(mesh, "expert-1");
  beat.incarnation = old.incarnation;
  mesh.coordinator().on_heartbeat(old_link, beat);
  mesh.coordinator().on_prepared({"expert-1", old.incarnation, epoch + 1, Code::ok, {}});
  mesh.coordinator().on_link_down(old_link);
  mesh.run();
  EXPECT_EQ(mesh.coordinator().counters().refused, 1U);
  EXPECT_EQ(mesh.coordinator().epochs().epoch(), epoch);
  expect_healthy(mesh, 2);
}

// It was displaced, and lives: neither is it welcome while the newer one may come back, nor told to end.
TEST(ComesBack, TheOldOneOfANewProcessThatDiesIsAskedBack) {
  ScriptedMesh mesh(expecting(2, 1));
  start_members(mesh, 2);
  mesh.run();
  const wire::Register old = mesh.peer("expert-1").info;
  const transport::LinkId old_link = mesh.link("expert-1");
  mesh.start(ServiceKind::expert, "expert-1");
  mesh.run();
  mesh.kill("expert-1");
  const auto member = [&] { return *mesh.coordinator().members().find("expert-1"); };
  mesh.coordinator().on_register(old_link, old);
  EXPECT_EQ(mesh.coordinator().counters().refused, 0U);
  EXPECT_EQ(member().info.incarnation, old.incarnation + 1);
  mesh.pass_silently(2 * kSecond);
  EXPECT_EQ(member().state, MemberState::lost);
  wire::Heartbeat beat = beat_of(mesh, "expert-1");
  beat.incarnation = old.incarnation;
  mesh.coordinator().on_heartbeat(old_link, beat);
  mesh.pass_silently(kSecond);
  const std::uint64_t delivered = mesh.delivered();
  mesh.coordinator().on_heartbeat(old_link, beat);
  mesh.run();
  EXPECT_EQ(mesh.delivered(), delivered + 1) << "it is asked to register";
  mesh.coordinator().on_register(old_link, old);
  EXPECT_EQ(member().state, MemberState::alive);
  EXPECT_EQ(member().info.incarnation, old.incarnation);
}

// ---------------------------------------------------------------- bad input

TEST(BadInput, StaleEpochsChangeNothing) {
  ScriptedMesh mesh(expecting(2, 1));
  start_members(mesh, 2);
  mesh.run();
  mesh.start(ServiceKind::expert, "expert-2");
  const std::uint64_t target = mesh.coordinator().epochs().epoch() + 1;
  for (const char* name : {"expert-0", "expert-1", "expert-2"}) {
    mesh.coordinator().on_prepared({name, 1, target - 1, Code::ok, {}});
    mesh.coordinator().on_prepared({name, 1, target - 1, Code::data_loss, "old"});
    mesh.coordinator().on_prepared({name, 9, target, Code::ok, {}});
  }
  mesh.coordinator().on_switched({"attention-0", 1, target});
  EXPECT_EQ(mesh.coordinator().epochs().phase(), Epochs::Phase::preparing);
  EXPECT_LT(mesh.coordinator().epochs().epoch(), target);
  mesh.run();
  expect_healthy(mesh, 2);
}

/// Whatever well-formed nonsense strangers and confused members send.
TEST(BadInput, NonsenseDisturbsNobody) {
  wire::RandomMessage random(20261);
  Rng rng(20262);
  ScriptedMesh mesh(expecting(3, 1));
  start_members(mesh, 3);
  mesh.run();
  const std::vector<std::string> names{"expert-0", "expert-1", "attention-0", "router-0"};
  const auto name = [&](std::string& field) {
    if (rng.below(2) == 0) field = names[rng.below(names.size())];
  };
  for (int i = 0; i < 20'000; ++i) {
    const transport::LinkId link = 1000 + rng.below(8);
    wire::Body body = random.make(rng.below(std::variant_size_v<wire::Body>)).body;
    Coordinator& orchestrator = mesh.coordinator();
    if (auto* it = std::get_if<wire::Register>(&body)) {
      name(it->name);
      if (it->kind != ServiceKind::router) orchestrator.on_register(link, *it);
    } else if (auto* it = std::get_if<wire::Heartbeat>(&body)) {
      name(it->name);
      orchestrator.on_heartbeat(link, *it);
    } else if (auto* it = std::get_if<wire::Prepared>(&body)) {
      name(it->name);
      orchestrator.on_prepared(*it);
    } else if (auto* it = std::get_if<wire::Switched>(&body)) {
      name(it->name);
      orchestrator.on_switched(*it);
    } else if (auto* it = std::get_if<wire::Report>(&body)) {
      name(it->worker);
      orchestrator.on_report(*it);
    } else if (auto* it = std::get_if<wire::Drain>(&body)) {
      name(it->name);
      orchestrator.on_drain(link, *it);
    }
    if (i % 1000 == 0) mesh.pass(kSecond);
  }
  mesh.pass(3 * kSecond);
  EXPECT_EQ(mesh.coordinator().superseded_by(), 0U);
  EXPECT_EQ(mesh.coordinator().counters().losses, 0U);
  EXPECT_EQ(mesh.coordinator().epochs().epoch(), 1U);
  expect_healthy(mesh, 2);
}

/// A member may count wrong in any way; what is made of it stays within bounds.
TEST(BadInput, AbsurdNumbersOfAMemberStayBounded) {
  wire::RandomMessage random(20263);
  CoordinatorOptions options = expecting(3, 1);
  options.epochs.rebalance_interval = 2 * kSecond;
  ScriptedMesh mesh(options);
  start_members(mesh, 3);
  mesh.run();
  const std::size_t kind = wire::Body(wire::Heartbeat{}).index();
  for (int i = 0; i < 300; ++i) {
    for (const char* name : {"expert-0", "attention-0", "router-0"}) {
      auto beat = std::get<wire::Heartbeat>(random.make(kind).body);
      beat.name = name;
      beat.incarnation = 1;
      beat.orchestrator_generation = ~0ULL;
      beat.epoch = ~0ULL;
      beat.workers.push_back({"expert-0", 1, std::numeric_limits<float>::infinity(), true, true});
      mesh.coordinator().on_heartbeat(mesh.link(name), beat);
    }
    mesh.pass_silently(kSecond / 4);
  }
  EXPECT_EQ(mesh.coordinator().superseded_by(), 0U);
  EXPECT_LT(mesh.coordinator().epochs().epoch(), 1000U);
  EXPECT_LE(mesh.coordinator().pools().experts().wanted(), 64U);
  EXPECT_TRUE(mesh.coordinator().serving().is_ok());
}

}  // namespace
}  // namespace fulgur::orchestrator
