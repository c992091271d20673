// Draining on virtual time: replicas move first, nobody is left without, deaths at every step, and
// what is refused.
#include <gtest/gtest.h>

#include "orchestrator/healthy_mesh.hpp"

namespace fulgur::orchestrator {
namespace {

using wire::ServiceKind;

/// Options under which every expert is one byte, so that capacities count replicas.
CoordinatorOptions with_capacities(std::uint32_t experts) {
  CoordinatorOptions options = expecting(experts, 1);
  options.epochs.expert_bytes = 1;
  return options;
}

/// Every replica a shard may dispatch to is there, on a worker that runs.
void expect_no_gap(ScriptedMesh& mesh) {
  ReplicaMap served(kShape);
  for (const auto& entry : mesh.peer("attention-0").placement.workers) {
    const auto& worker = mesh.peer(entry.name);
    const ReplicaMap named = replicas_of(entry.replicas);
    if (!worker.alive) continue;
    EXPECT_EQ(named.count_missing_in(worker.held), 0U) << entry.name;
    served.add(named);
  }
  EXPECT_EQ(served.count(), kShape.cells());
}

TEST(Drain, AWorkerLeavesWhenItsReplicasHaveMoved) {
  ScriptedMesh mesh(expecting(3, 1));
  start_members(mesh, 3);
  mesh.run();
  ASSERT_TRUE(mesh.coordinator().drain({"expert-1"}).is_ok());
  EXPECT_TRUE(mesh.coordinator().drain({"expert-1"}).is_ok()) << "twice is once";
  while (mesh.step()) expect_no_gap(mesh);
  EXPECT_TRUE(mesh.peer("expert-1").told_to_leave);
  EXPECT_EQ(mesh.coordinator().members().find("expert-1"), nullptr);
  EXPECT_EQ(mesh.peer("attention-0").placement.workers.size(), 2U);
  EXPECT_EQ(mesh.coordinator().counters().losses, 0U);
  EXPECT_EQ(mesh.coordinator().counters().departures, 1U);
  EXPECT_EQ(mesh.coordinator().counters().drains, 1U);
  expect_healthy(mesh, 2);
}

TEST(Drain, ANewProcessOfTheNameServesAgain) {
  ScriptedMesh mesh(expecting(3, 1));
  start_members(mesh, 3);
  mesh.run();
  ASSERT_TRUE(mesh.coordinator().drain({"expert-1"}).is_ok());
  mesh.run();
  mesh.start(ServiceKind::expert, "expert-1");
  mesh.run();
  EXPECT_GT(mesh.peer("expert-1").held.count(), 0U);
  expect_healthy(mesh, 2);
}

TEST(Drain, RefusesWhatWouldLeaveAnExpertWithoutCapacity) {
  ScriptedMesh mesh(with_capacities(3));
  start_members(mesh, 0);
  mesh.start(ServiceKind::expert, "expert-0", 24);
  mesh.start(ServiceKind::expert, "expert-1", 12);
  mesh.start(ServiceKind::expert, "expert-2", 10);
  mesh.run();
  const auto refused = mesh.coordinator().drain({"expert-0"});
  EXPECT_EQ(refused.code(), Code::failed_precondition);
  EXPECT_NE(refused.message().find("without expert-0 no worker has capacity for expert "),
            std::string::npos);
  EXPECT_NE(refused.message().find(" and 1 more: 2 other expert workers have room for 22 of 24"),
            std::string::npos)
      << refused.message();
  EXPECT_EQ(mesh.coordinator().drain({"expert-2", "expert-0"}).code(), Code::failed_precondition);
  mesh.run();
  EXPECT_FALSE(mesh.coordinator().members().find("expert-2")->draining) << "all or none";
  EXPECT_EQ(mesh.coordinator().counters().drains_refused, 2U);
  ASSERT_TRUE(mesh.coordinator().drain({"expert-2", "expert-1"}).is_ok());
  mesh.run();
  expect_healthy(mesh, 1);
  EXPECT_EQ(mesh.coordinator().drain({"expert-0"}).message(),
            "without expert-0 no worker has capacity for expert 0 of layer 0 and 23 more: 0 other "
            "expert workers have room for 0 of 24");
}

TEST(Drain, RefusesStrangersRoutersAndAMeshThatIsNotReady) {
  ScriptedMesh mesh(expecting(2, 1));
  start_members(mesh, 1);
  mesh.run();
  EXPECT_EQ(mesh.coordinator().drain({"expert-0"}).code(), Code::unavailable);
  mesh.start(ServiceKind::expert, "expert-1");
  mesh.run();
  EXPECT_EQ(mesh.coordinator().drain({"expert-9"}).message(),
            "no member of the mesh is called expert-9");
  EXPECT_EQ(mesh.coordinator().drain({"expert-9"}).code(), Code::not_found);
  EXPECT_EQ(mesh.coordinator().undrain("expert-9").code(), Code::not_found);
  EXPECT_EQ(mesh.coordinator().drain({"router-0"}).code(), Code::invalid_argument);
  EXPECT_EQ(mesh.coordinator().drain({}).code(), Code::invalid_argument);
  mesh.kill("expert-1");
  mesh.pass(2 * kSecond);
  EXPECT_EQ(mesh.coordinator().drain({"expert-1"}).code(), Code::not_found) << "it is lost";
  expect_healthy(mesh, 1);
}

TEST(Drain, CanBeTakenBackUntilTheWorkerIsTold) {
  ScriptedMesh mesh(expecting(3, 1));
  start_members(mesh, 3);
  mesh.run();
  const auto before = mesh.peer("expert-1").held;
  ASSERT_TRUE(mesh.coordinator().drain({"expert-1"}).is_ok());
  mesh.step();
  EXPECT_TRUE(mesh.coordinator().undrain("expert-1").is_ok());
  mesh.run();
  EXPECT_FALSE(mesh.coordinator().members().find("expert-1")->draining);
  EXPECT_EQ(mesh.peer("expert-1").held, before) << "nothing moved twice";
  expect_healthy(mesh, 2);
}

TEST(Drain, AWorkerAsksForItself) {
  ScriptedMesh mesh(expecting(2, 1));
  start_members(mesh, 2);
  mesh.run();
  mesh.coordinator().on_drain(mesh.link("expert-0"), {"expert-0", 1});
  mesh.run();
  EXPECT_TRUE(mesh.peer("expert-0").told_to_leave);
  expect_healthy(mesh, 1);
  mesh.coordinator().on_drain(mesh.link("expert-1"), {"expert-1", 1});
  mesh.run();
  EXPECT_FALSE(mesh.peer("expert-1").told_to_leave);
  EXPECT_EQ(mesh.peer("expert-1").last_ack.code, Code::failed_precondition);
  // Somebody else cannot send a member away.
  mesh.coordinator().on_drain(mesh.link("router-0"), {"attention-0", 1});
  mesh.run();
  EXPECT_EQ(mesh.peer("router-0").last_refusal.code, Code::not_found);
  EXPECT_TRUE(mesh.peer("router-0").placement.shards.at(0).accepting);
  expect_healthy(mesh, 1);
  // A shard that says so leaves, be it the last: nothing new may go to it.
  mesh.coordinator().on_drain(mesh.link("attention-0"), {"attention-0", 1});
  mesh.run();
  EXPECT_FALSE(mesh.peer("router-0").placement.shards.at(0).accepting);
  EXPECT_EQ(mesh.peer("attention-0").last_ack.code, Code::ok);
}

TEST(Drain, AShardStopsAcceptingBeforeItIsTold) {
  ScriptedMesh mesh(expecting(2, 2));
  mesh.start(ServiceKind::attention, "attention-1");
  start_members(mesh, 2);
  mesh.run();
  ASSERT_TRUE(mesh.coordinator().drain({"attention-1"}).is_ok());
  while (!mesh.peer("attention-1").told_to_leave) ASSERT_TRUE(mesh.step());
  const auto& shards = mesh.peer("attention-0").placement.shards;
  ASSERT_EQ(shards.size(), 2U);
  EXPECT_TRUE(shards[0].accepting);
  EXPECT_FALSE(shards[1].accepting);
  EXPECT_EQ(mesh.coordinator().drain({"attention-0"}).message(),
            "no other attention shard would accept requests: attention-0 cannot drain");
  EXPECT_EQ(mesh.coordinator().undrain("attention-1").code(), Code::failed_precondition);
  mesh.run();
  // A new link to the same process does not undo it.
  mesh.announce("attention-1");
  mesh.run();
  EXPECT_FALSE(mesh.peer("router-0").placement.shards.at(1).accepting);
  mesh.kill("attention-1");
  mesh.pass(2 * kSecond);
  EXPECT_EQ(mesh.peer("router-0").placement.shards.size(), 1U);
  EXPECT_EQ(mesh.coordinator().counters().losses, 0U);
  expect_healthy(mesh, 2);
}

// A rolling restart: each is back before anybody has noticed that it was gone.
TEST(Drain, OneThatLeavesAndIsBackAtOnceIsNoLoss) {
  ScriptedMesh mesh(expecting(2, 2));
  mesh.start(ServiceKind::attention, "attention-1");
  start_members(mesh, 2);
  mesh.run();
  ASSERT_TRUE(mesh.coordinator().drain({"attention-1"}).is_ok());
  mesh.run();
  mesh.start(ServiceKind::attention, "attention-1");
  mesh.peer("router-0").info.draining = true;
  mesh.announce("router-0");
  mesh.start(ServiceKind::router, "router-0");
  mesh.run();
  EXPECT_EQ(mesh.coordinator().counters().departures, 2U);
  EXPECT_EQ(mesh.coordinator().counters().losses, 0U);
  EXPECT_FALSE(mesh.coordinator().members().find("router-0")->draining);
  mesh.start(ServiceKind::router, "router-0");
  mesh.run();
  EXPECT_EQ(mesh.coordinator().counters().losses, 1U) << "this one said nothing";
  expect_healthy(mesh, 2);
}

TEST(Drain, ARouterThatSaidSoLeaves) {
  ScriptedMesh mesh(expecting(1, 1));
  start_members(mesh, 1);
  mesh.run();
  mesh.peer("router-0").info.draining = true;
  mesh.announce("router-0");
  mesh.kill("router-0");
  mesh.pass(2 * kSecond);
  EXPECT_EQ(mesh.coordinator().members().find("router-0"), nullptr);
  EXPECT_EQ(mesh.coordinator().counters().departures, 1U);
  EXPECT_EQ(mesh.coordinator().counters().losses, 0U);
}

TEST(Drain, WaitsWhenCapacityVanishesMeanwhile) {
  ScriptedMesh mesh(with_capacities(3));
  start_members(mesh, 0);
  for (const char* name : {"expert-0", "expert-1", "expert-2"})
    mesh.start(ServiceKind::expert, name, 12);
  mesh.run();
  ASSERT_TRUE(mesh.coordinator().drain({"expert-1"}).is_ok());
  mesh.kill("expert-2");  // before anybody prepared
  mesh.pass(2 * kSecond);
  EXPECT_FALSE(mesh.peer("expert-1").told_to_leave);
  EXPECT_NE(mesh.coordinator().epochs().problem().find("a drain waits for capacity"),
            std::string::npos);
  expect_healthy(mesh, 1);
  mesh.start(ServiceKind::expert, "expert-3", 24);
  mesh.run();
  EXPECT_TRUE(mesh.peer("expert-1").told_to_leave);
  expect_healthy(mesh, 1);
}

/// Drains expert-3 of four and kills `victim` (or restarts the orchestrator) after `steps`
/// deliveries; returns how many the undisturbed drain takes.
std::uint64_t drain_with_death(const std::string& victim, std::uint64_t steps) {
  SCOPED_TRACE("victim " + victim + " after " + std::to_string(steps) + " steps");
  ScriptedMesh mesh(expecting(4, 2));
  mesh.start(ServiceKind::attention, "attention-1");
  start_members(mesh, 4);
  mesh.run();
  const std::uint64_t start = mesh.delivered();
  EXPECT_TRUE(mesh.coordinator().drain({"expert-3"}).is_ok());
  while (mesh.delivered() - start < steps && mesh.step()) {
  }
  if (victim == "orchestrator") {
    mesh.restart(expecting(3, 2));
    for (const auto& [name, peer] : mesh.peers())
      if (peer.alive) mesh.announce(name);
  } else if (!victim.empty() && mesh.peer(victim).alive) {
    mesh.kill(victim);
  }
  mesh.run();
  const std::uint64_t taken = mesh.delivered() - start;
  mesh.pass(3 * kSecond);
  expect_healthy(mesh, 2);
  if (victim != "orchestrator") {
    EXPECT_FALSE(mesh.peer("expert-3").alive);
  }
  return taken;
}

TEST(Drain, SurvivesADeathAtEveryStep) {
  const std::uint64_t steps = drain_with_death("", 0);
  ASSERT_GT(steps, 8U);
  for (const char* victim :
       {"expert-0", "expert-3", "attention-0", "attention-1", "router-0", "orchestrator"})
    for (std::uint64_t step = 0; step <= steps; ++step) drain_with_death(victim, step);
}

}  // namespace
}  // namespace fulgur::orchestrator
