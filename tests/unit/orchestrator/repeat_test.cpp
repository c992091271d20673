// What is lost on a link that stays up is said again, and who failed to load is trusted again.
#include <gtest/gtest.h>

#include "orchestrator/healthy_mesh.hpp"
#include "services/orchestrator/coordinator.hpp"

namespace fulgur::orchestrator {
namespace {

using wire::ServiceKind;

TEST(Retry, AWorkerWithABadReadLoadsAfterABackOff) {
  ScriptedMesh mesh(expecting(2, 1));
  start_members(mesh, 2);
  mesh.peer("expert-0").bad_loads = 1;
  mesh.peer("expert-1").bad_loads = 2;  // the first answers a Prepare that is no longer wanted
  mesh.run();
  EXPECT_FALSE(mesh.coordinator().epochs().serving().is_ok());
  EXPECT_EQ(mesh.coordinator().epochs().problem(),
            "2 expert workers have room for 0 experts, the model has 24 (3 layers x 8)");
  mesh.pass(kSecond);
  EXPECT_EQ(mesh.peer("expert-0").prepares, 2) << "no more before the back-off";
  mesh.pass(2 * kSecond);
  expect_healthy(mesh, 2);
}

TEST(Retry, BacksOffLongerWithEveryFailureAndKeepsWhatIsHeld) {
  ScriptedMesh mesh(expecting(2, 1));
  start_members(mesh, 2);
  mesh.run();
  mesh.start(ServiceKind::expert, "expert-2");
  mesh.peer("expert-2").bad_loads = 1'000'000;
  mesh.run();
  mesh.pass(600 * kSecond);
  expect_healthy(mesh, 2);
  const int failures = 1'000'000 - mesh.peer("expert-2").bad_loads;
  EXPECT_GE(failures, 10);
  EXPECT_LE(failures, 16) << "2, 4, ... 60, 60 seconds";
  mesh.peer("expert-2").bad_loads = 0;
  mesh.pass(61 * kSecond);
  expect_healthy(mesh, 2);
  EXPECT_EQ(mesh.peer("expert-2").held.count(), kShape.cells() * 2 / 3);
}

TEST(Retry, AWorkerThatDidNotPrepareInTimeIsAskedAgain) {
  auto options = expecting(2, 1);
  options.epochs.prepare_timeout = 20 * kSecond;
  ScriptedMesh mesh(options);
  start_members(mesh, 2);
  mesh.run();
  mesh.start(ServiceKind::expert, "expert-2");
  mesh.lose_all();
  for (int beat = 0; beat < 50; ++beat) {  // its Prepares are lost, all of them
    mesh.pass_with_loss(kSecond / 2, "expert-2");
  }
  EXPECT_EQ(mesh.peer("expert-2").prepares, 0);
  mesh.pass(70 * kSecond);
  expect_healthy(mesh, 2);
  EXPECT_EQ(mesh.peer("expert-2").held.count(), kShape.cells() * 2 / 3);
}

TEST(Repeat, AStrangerIsAskedToRegister) {
  ScriptedMesh mesh(expecting(2, 1));
  start_members(mesh, 2);
  mesh.run();
  const std::uint64_t before = mesh.coordinator().counters().registrations;
  mesh.restart(expecting(2, 1));  // and nobody's Register arrives
  EXPECT_EQ(before, 4U);
  mesh.pass(kSecond);
  EXPECT_EQ(mesh.coordinator().counters().registrations, 0U) << "it may be on its way";
  mesh.pass(kSecond);
  EXPECT_EQ(mesh.coordinator().counters().registrations, 4U);
  expect_healthy(mesh, 2);
}

TEST(Repeat, AnsweringStrangersIsRationed) {
  ScriptedMesh mesh(expecting(2, 1));
  start_members(mesh, 2);
  mesh.run();
  auto& router = mesh.peer("router-0");
  router.info.model_fingerprint = 8;  // it will be refused, and beats on
  mesh.restart(expecting(2, 1));
  mesh.pass(30 * kSecond);
  EXPECT_GE(mesh.coordinator().counters().refused, 5U);
  EXPECT_LE(mesh.coordinator().counters().refused, 7U);
}

TEST(Repeat, AnOlderIncarnationHearsNothing) {
  ScriptedMesh mesh(expecting(2, 1));
  start_members(mesh, 2);
  mesh.run();
  mesh.start(ServiceKind::expert, "expert-1");
  mesh.run();
  mesh.peer("expert-1").last_ack = {};
  for (int beat = 0; beat < 10; ++beat) {
    wire::Heartbeat late;
    late.name = "expert-1";
    late.incarnation = 1;
    mesh.coordinator().on_heartbeat(mesh.link("expert-1"), late);
    mesh.pass(kSecond / 2);
  }
  EXPECT_EQ(mesh.peer("expert-1").last_ack.code, Code::ok);
  EXPECT_EQ(mesh.coordinator().counters().strangers, 10U);
}

/// Loses the message after `steps` deliveries of a join; the mesh must come to rest all the same.
bool join_with_loss(std::uint64_t steps) {
  ScriptedMesh mesh(expecting(3, 2));
  mesh.start(ServiceKind::attention, "attention-1");
  start_members(mesh, 3);
  mesh.run();
  const std::uint64_t start = mesh.delivered();
  mesh.start(ServiceKind::expert, "expert-3");
  while (mesh.delivered() - start < steps && mesh.step()) {
  }
  const bool lost = mesh.lose();
  mesh.run();
  mesh.pass(5 * kSecond);
  SCOPED_TRACE("lost after " + std::to_string(steps));
  EXPECT_EQ(mesh.coordinator().epochs().phase(), Epochs::Phase::idle);
  EXPECT_TRUE(mesh.coordinator().epochs().serving().is_ok());
  for (const char* name : {"router-0", "attention-0", "attention-1"})
    EXPECT_EQ(mesh.peer(name).placement.epoch, mesh.coordinator().epochs().epoch()) << name;
  EXPECT_GT(mesh.coordinator().epochs().replicas_on("expert-3"), 0U);
  return lost;
}

TEST(Repeat, EveryMessageOfAChangeMayBeLost) {
  std::uint64_t steps = 0;
  while (join_with_loss(steps)) ++steps;
  EXPECT_GT(steps, 8U);
}

TEST(Repeat, AMemberThatIsUpToDateHearsNothingTwice) {
  ScriptedMesh mesh(expecting(2, 1));
  start_members(mesh, 2);
  mesh.run();
  const std::uint64_t delivered = mesh.delivered();
  mesh.pass(20 * kSecond);
  EXPECT_EQ(mesh.delivered(), delivered);
}

TEST(Repeat, ALostDrainIsSaidAgain) {
  ScriptedMesh mesh(expecting(2, 2));
  mesh.start(ServiceKind::attention, "attention-1");
  start_members(mesh, 2);
  mesh.run();
  ASSERT_TRUE(mesh.coordinator().drain({"attention-1"}).is_ok());
  mesh.lose_all();
  mesh.pass(3 * kSecond);
  EXPECT_TRUE(mesh.peer("attention-1").told_to_leave);
  EXPECT_EQ(mesh.peer("router-0").placement.epoch, mesh.coordinator().epochs().epoch());
}

}  // namespace
}  // namespace fulgur::orchestrator
