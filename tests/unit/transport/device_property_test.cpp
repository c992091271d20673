// Random worlds from seeds, and a fixed conversation cut at every step.
#include <gtest/gtest.h>

#include "common/base/log.hpp"
#include "tests/unit/transport/device_world.hpp"

namespace fulgur::transport {
namespace {

/// A swarm: each seed draws which kinds of fault its world has.
FakeFaults draw_faults(Rng& rng) {
  FakeFaults faults;
  const auto maybe = [&](std::uint64_t most) { return rng.below(3) == 0 ? rng.below(most) : 0; };
  faults.call_fails = maybe(100);
  faults.start_fails = maybe(400);
  faults.channel_dies = maybe(400);
  faults.hangs = maybe(300);
  faults.never_joins = maybe(300);
  faults.damages_probe = maybe(300);
  faults.steps_most = 1 + rng.below(12);
  faults.abort_steps_most = 1 + rng.below(30);
  return faults;
}

void act(DeviceWorld& world, Rng& rng, std::uint64_t cuts_in_a_thousand) {
  DeviceSide& side = rng.below(2) == 0 ? world.shard : world.worker;
  switch (rng.below(6)) {
    case 0:
      side.transport->poll(side, 1 + rng.below(8));
      break;
    case 1:
      world.fabric.step();
      break;
    case 2:
      (void)side.send(rng.below(4) == 0 ? 0 : rng.below(6200));
      break;
    case 3:
      if (!side.held.empty()) side.drop(rng.below(side.held.size()));
      break;
    case 4:
      world.clock.advance(static_cast<Nanoseconds>(rng.below(2 * kMillisecond)));
      break;
    default:
      world.turn();
  }
  if (rng.below(1000) < cuts_in_a_thousand) {
    world.hub.cut("shard", "worker");
    for (std::uint64_t turns = rng.below(20); turns > 0; --turns) world.turn();
    world.hub.heal("shard", "worker");
  }
}

/// After the faults: the link comes up by whatever carrier is left, and everything sent arrives.
void settle(DeviceWorld& world) {
  world.fabric.calm();
  world.shard.answers_left = world.worker.answers_left = 0;
  // What hangs is a process that is stopped: its link ends when somebody has had enough.
  if (world.fabric.hanging != 0) {
    world.hub.cut("shard", "worker");
    world.turn();
    world.hub.heal("shard", "worker");
  }
  for (int round = 0; round < 4; ++round) {
    ASSERT_TRUE(world.run([&] {
      world.drop_all();
      return world.both_up() && world.shard.sent == world.worker.received &&
             world.worker.sent == world.shard.received;
    })) << "not everything arrived";
    (void)world.shard.send(4096);
    (void)world.worker.send(2048);
  }
  ASSERT_TRUE(world.run([&] {
    world.drop_all();
    return world.both_up() && world.shard.sent == world.worker.received &&
           world.worker.sent == world.shard.received;
  }));
}

TEST(DeviceProperty, NothingIsLostRepeatedReorderedOrHeld) {
  log::init("test", log::Level::error);
  std::uint64_t tensors = 0;
  for (std::uint64_t seed = 0; seed < 3000; ++seed) {
    Rng rng(seed * 2 + 1);
    const FakeFaults faults = seed % 4 == 0 ? FakeFaults{} : draw_faults(rng);
    const LinkLimits inner = rng.below(2) == 0 ? LinkLimits{3, 4096} : LinkLimits{};
    DeviceWorld world(seed, faults, rng.below(2) == 0, DeviceWorld::small(), inner);
    const std::uint64_t cuts = rng.below(3) == 0 ? 30 : 0;
    world.shard.answers_left = world.worker.answers_left = static_cast<int>(rng.below(20));
    for (int step = 0; step < 300; ++step) act(world, rng, cuts);
    settle(world);
    tensors += world.shard.on_device + world.worker.on_device;
    world.expect_nothing_held();
    if (testing::Test::HasFailure()) {
      FAIL() << "seed " << seed;
    }
  }
  EXPECT_GT(tensors, 50'000U) << "the worlds are too quiet to prove anything";
}

/// A conversation that ends, one way or another, at every one of its steps.
class EveryStep : public testing::TestWithParam<bool> {};

TEST_P(EveryStep, AnEndLeavesNothingHeld) {
  log::init("test", log::Level::error);
  for (int way = 0; way < 3; ++way) {
    for (int end_at = 0; end_at < 120; ++end_at) {
      DeviceWorld world(7, {}, GetParam());
      int step = 0;
      for (; step < end_at; ++step) {
        world.turn();
        if (step % 3 == 0) (void)world.shard.send(5000);
        if (step % 4 == 0) (void)world.worker.send(step % 8 == 0 ? 0 : 3000);
        if (step % 5 == 0 && !world.worker.held.empty()) world.worker.drop(0);
      }
      if (way == 0) {
        world.hub.cut("shard", "worker");
      } else if (way == 1) {
        world.worker.transport->close(world.worker.link);
        world.worker.link = 0;
      } else {
        world.shard.transport.reset();  // the process dies
        world.shard.held.clear();
        for (int more = 0; more < 200; ++more) {
          world.worker.transport->poll(world.worker, 4);
          world.fabric.step();
        }
        EXPECT_EQ(world.worker.link, 0U);
        EXPECT_EQ(world.worker.transport->unburied(), 0U);
        EXPECT_EQ(world.worker.transport->bytes_outstanding(), 0U);
        while (!world.worker.held.empty()) world.worker.drop(0);
        world.worker.transport.reset();
        EXPECT_EQ(world.fabric.live_blocks, 0U) << "killed at " << end_at;
        EXPECT_TRUE(world.fabric.violations.empty());
        continue;
      }
      for (int more = 0; more < 200; ++more) world.turn();
      world.expect_nothing_held();
      ASSERT_FALSE(testing::Test::HasFailure()) << "way " << way << " at " << end_at;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Carriers, EveryStep, testing::Bool(),
                         [](const auto& info) { return info.param ? "peer" : "nccl"; });

}  // namespace
}  // namespace fulgur::transport
