// The epoch protocol end to end with scripted members on virtual time, and with a death at every
// single step of it.
#include "services/orchestrator/coordinator.hpp"

#include <gtest/gtest.h>

#include "orchestrator/healthy_mesh.hpp"

namespace fulgur::orchestrator {
namespace {

using wire::ServiceKind;
TEST(Coordinator, StartsWhenEverybodyExpectedIsThere) {
  ScriptedMesh mesh(expecting(2, 1));
  start_members(mesh, 1);
  mesh.run();
  EXPECT_EQ(mesh.coordinator().epochs().phase(), Epochs::Phase::settling);
  EXPECT_EQ(mesh.coordinator().epochs().serving().message(),
            "no placement committed yet (settling)");
  mesh.start(ServiceKind::expert, "expert-1");
  mesh.run();
  EXPECT_EQ(mesh.coordinator().epochs().epoch(), 1U);
  EXPECT_EQ(mesh.peer("router-0").placement.shards.at(0).name, "attention-0");
  expect_healthy(mesh, 2);
}

TEST(Coordinator, StartsWithFewerAfterTheGracePeriod) {
  ScriptedMesh mesh(expecting(3, 1));
  start_members(mesh, 2);
  mesh.pass(9 * kSecond);
  EXPECT_EQ(mesh.coordinator().epochs().phase(), Epochs::Phase::settling);
  mesh.pass(2 * kSecond);
  expect_healthy(mesh, 2);
}

TEST(Coordinator, AShardThatComesLaterIsToldAndMadeKnown) {
  ScriptedMesh mesh(expecting(2, 1));
  start_members(mesh, 2);
  mesh.run();
  mesh.start(ServiceKind::attention, "attention-1");
  mesh.start(ServiceKind::router, "router-1");
  mesh.run();
  expect_healthy(mesh, 2);
  EXPECT_EQ(mesh.peer("router-0").placement.shards.size(), 2U);
  EXPECT_EQ(mesh.peer("router-1").placement.shards.size(), 2U);
  mesh.kill("attention-1");
  mesh.pass(2 * kSecond);
  expect_healthy(mesh, 2);
  EXPECT_EQ(mesh.peer("router-1").placement.shards.size(), 1U);
}

TEST(Coordinator, AJoiningWorkerReceivesItsShareAndOthersFreeTheirs) {
  ScriptedMesh mesh(expecting(2, 1));
  start_members(mesh, 2);
  mesh.run();
  const std::uint64_t before = mesh.coordinator().epochs().moves_total();
  mesh.start(ServiceKind::expert, "expert-2");
  mesh.run();
  expect_healthy(mesh, 2);
  EXPECT_EQ(mesh.peer("expert-2").held.count(), kShape.cells() * 2 / 3);
  EXPECT_EQ(mesh.coordinator().epochs().moves_total() - before, kShape.cells() * 2 / 3);
}

TEST(Coordinator, ALostWorkerIsReplacedByItsNextIncarnation) {
  ScriptedMesh mesh(expecting(3, 1));
  start_members(mesh, 3);
  mesh.run();
  mesh.kill("expert-1");
  mesh.start(ServiceKind::expert, "expert-1");
  mesh.run();
  expect_healthy(mesh, 2);
  EXPECT_EQ(mesh.coordinator().counters().losses, 1U);
}

TEST(Coordinator, AMeshWithoutWorkersServesAgainWhenOneComes) {
  ScriptedMesh mesh(expecting(1, 1));
  start_members(mesh, 1);
  mesh.run();
  expect_healthy(mesh, 1);
  mesh.kill("expert-0");
  mesh.pass(2 * kSecond);
  EXPECT_EQ(mesh.coordinator().epochs().serving().message(),
            "24 of 24 experts have no live replica");
  mesh.start(ServiceKind::expert, "expert-9");
  mesh.run();
  expect_healthy(mesh, 1);
}

TEST(Coordinator, ARestartRebuildsItsViewWithoutMoving) {
  ScriptedMesh mesh(expecting(3, 1));
  start_members(mesh, 3);
  mesh.run();
  mesh.start(ServiceKind::attention, "attention-1");
  mesh.run();
  const std::uint64_t epoch = mesh.coordinator().epochs().epoch();
  std::map<std::string, ReplicaMap> held;
  for (const auto& [name, peer] : mesh.peers()) held[name] = peer.held;
  mesh.restart(expecting(3, 2));
  for (const auto& [name, peer] : mesh.peers()) mesh.announce(name);
  mesh.run();
  EXPECT_EQ(mesh.coordinator().epochs().moves_total(), 0U);
  EXPECT_GT(mesh.coordinator().epochs().epoch(), epoch);
  for (const auto& [name, peer] : mesh.peers()) EXPECT_EQ(peer.held, held[name]) << name;
  expect_healthy(mesh, 2);
}

TEST(Coordinator, ARestartWaitsForTheLate) {
  ScriptedMesh mesh(expecting(3, 1));
  start_members(mesh, 3);
  mesh.run();
  mesh.restart(expecting(3, 1));
  for (const char* name : {"router-0", "expert-0", "expert-1", "attention-0"}) mesh.announce(name);
  mesh.peer("expert-2").alive = false;  // its link is not up yet
  mesh.pass(3 * kSecond);
  EXPECT_EQ(mesh.coordinator().epochs().phase(), Epochs::Phase::settling);
  mesh.peer("expert-2").alive = true;
  mesh.announce("expert-2");
  mesh.run();
  EXPECT_EQ(mesh.coordinator().epochs().moves_total(), 0U);
  expect_healthy(mesh, 2);
}

TEST(Coordinator, AWorkerThatCannotLoadKeepsWhatItHas) {
  ScriptedMesh mesh(expecting(2, 1));
  start_members(mesh, 2);
  mesh.run();
  mesh.start(ServiceKind::expert, "expert-2");
  const auto target = mesh.coordinator().epochs().epoch() + 1;
  mesh.coordinator().on_prepared({"expert-2", 1, target, Code::resource_exhausted, "no memory"});
  mesh.run();
  expect_healthy(mesh, 2);
  EXPECT_EQ(mesh.peer("expert-2").held.count(), 0U);
}

TEST(Coordinator, RefusesAndSaysWhy) {
  ScriptedMesh mesh(expecting(1, 0));
  start_members(mesh, 1);
  mesh.run();
  auto info = mesh.peer("expert-0").info;
  info.model_fingerprint = 8;
  mesh.coordinator().on_register(1, info);
  EXPECT_EQ(mesh.coordinator().counters().refused, 1U);
  mesh.run();
  expect_healthy(mesh, 1);
}

/// Kills `victim` after `steps` deliveries of a join of expert-3; returns how many deliveries the
/// undisturbed protocol takes.
std::uint64_t join_with_death(const std::string& victim, std::uint64_t steps, bool comes_back) {
  ScriptedMesh mesh(expecting(3, 2));
  mesh.start(ServiceKind::attention, "attention-1");
  start_members(mesh, 3);
  mesh.run();
  const std::uint64_t start = mesh.delivered();
  mesh.start(ServiceKind::expert, "expert-3");
  while (mesh.delivered() - start < steps && mesh.step()) {
  }
  if (!victim.empty()) {
    const ServiceKind kind = mesh.peer(victim).info.kind;
    mesh.kill(victim);
    if (comes_back) mesh.start(kind, victim);
  }
  mesh.run();
  const std::uint64_t taken = mesh.delivered() - start;
  mesh.pass(3 * kSecond);
  SCOPED_TRACE("victim " + victim + " after " + std::to_string(steps) + " steps");
  expect_healthy(mesh, 2);
  return taken;
}

TEST(Coordinator, SurvivesADeathAtEveryStep) {
  const std::uint64_t steps = join_with_death("", 0, false);
  ASSERT_GT(steps, 8U);
  for (const char* victim :
       {"expert-0", "expert-2", "expert-3", "attention-0", "attention-1", "router-0"})
    for (std::uint64_t step = 0; step <= steps; ++step)
      for (const bool comes_back : {false, true}) join_with_death(victim, step, comes_back);
}

TEST(Coordinator, SurvivesAnOrchestratorDeathAtEveryStep) {
  const std::uint64_t steps = join_with_death("", 0, false);
  for (std::uint64_t step = 0; step <= steps; ++step) {
    SCOPED_TRACE("restart after " + std::to_string(step) + " steps");
    ScriptedMesh mesh(expecting(3, 2));
    mesh.start(ServiceKind::attention, "attention-1");
    start_members(mesh, 3);
    mesh.run();
    const std::uint64_t start = mesh.delivered();
    mesh.start(ServiceKind::expert, "expert-3");
    while (mesh.delivered() - start < step && mesh.step()) {
    }
    mesh.restart(expecting(4, 2));
    for (const auto& [name, peer] : mesh.peers()) mesh.announce(name);
    mesh.run();
    expect_healthy(mesh, 2);
  }
}

}  // namespace
}  // namespace fulgur::orchestrator
