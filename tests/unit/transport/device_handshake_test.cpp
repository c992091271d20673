// Which carrier two processes agree on, what the other end may not do, and what it costs.
#include <gtest/gtest.h>

#include "common/base/log.hpp"
#include "common/transport/device_message.hpp"
#include "tests/unit/transport/device_world.hpp"
#include "tests/unit/transport/node.hpp"

namespace fulgur::transport {
namespace {

TEST(DeviceHandshake, OneHostCopiesToThePeer) {
  DeviceWorld world(1);
  ASSERT_TRUE(world.run([&] { return world.both_up(); }));
  EXPECT_EQ(world.shard.carrier, DeviceCarrier::peer);
  EXPECT_EQ(world.worker.carrier, DeviceCarrier::peer);
  world.expect_nothing_held();
}

TEST(DeviceHandshake, TwoHostsUseNccl) {
  DeviceWorld world(1, {}, false);
  ASSERT_TRUE(world.run([&] { return world.both_up(); }));
  EXPECT_EQ(world.shard.carrier, DeviceCarrier::nccl);
  EXPECT_EQ(world.worker.carrier, DeviceCarrier::nccl);
  world.expect_nothing_held();
}

TEST(DeviceHandshake, ACarrierThatDoesNotWorkIsLeft) {
  log::init("test", log::Level::error);
  for (const auto fault : {&FakeFaults::never_joins, &FakeFaults::damages_probe, &FakeFaults::hangs,
                           &FakeFaults::call_fails}) {
    FakeFaults faults;
    faults.*fault = 1000;
    DeviceWorld world(3, faults);
    // A channel may draw a later transfer to fail at: only what fails at once is certain here.
    ASSERT_TRUE(world.run([&] { return world.both_up(); }));
    if (fault != &FakeFaults::hangs) {
      EXPECT_EQ(world.shard.carrier, DeviceCarrier::none);
    }
    world.fabric.faults = {};
    world.hub.cut("shard", "worker");
    world.turn();
    world.hub.heal("shard", "worker");
    ASSERT_TRUE(world.run([&] { return world.both_up(); }));
    world.expect_nothing_held();
  }
}

TEST(DeviceHandshake, WithoutALaneTensorsAreStaged) {
  DeviceOptions options = DeviceWorld::small();
  options.carriers.clear();
  DeviceWorld world(1, {}, true, options);
  ASSERT_TRUE(world.run([&] { return world.both_up(); }));
  EXPECT_EQ(world.shard.carrier, DeviceCarrier::none);
  ASSERT_TRUE(world.shard.send(4096));
  ASSERT_TRUE(world.run([&] { return world.worker.received == 1; }));
  EXPECT_EQ(world.worker.on_device, 0U) << "it came in host memory";
  world.expect_nothing_held();
}

TEST(DeviceHandshake, TensorsLargerThanTheWindowTakesAreStaged) {
  DeviceWorld world(1);
  ASSERT_TRUE(world.run([&] { return world.both_up(); }));
  const std::uint64_t largest = DeviceWindow(kFakeWindow).largest();
  for (const std::uint64_t bytes : {largest, largest + 8, std::uint64_t{1024}}) {
    ASSERT_TRUE(world.shard.send(bytes)) << bytes;
    const std::uint64_t sent = world.shard.sent;
    ASSERT_TRUE(world.run([&] { return world.worker.received == sent; })) << bytes;
  }
  EXPECT_EQ(world.worker.on_device, 2U) << "the middle one came in host memory, in its order";
  world.expect_nothing_held();
}

TEST(DeviceHandshake, ACarrierThatFailedOnceIsNotTriedAgain) {
  log::init("test", log::Level::error);
  DeviceWorld world(1);
  ASSERT_TRUE(world.run([&] { return world.both_up(); }));
  for (FakeChannel* channel : world.fabric.channels) channel->break_now();
  EXPECT_FALSE(world.shard.send(1024)) << "this is how it is seen";
  ASSERT_TRUE(world.run([&] { return world.shard.downs == 1 && world.both_up(); }));
  EXPECT_EQ(world.shard.carrier, DeviceCarrier::nccl);
  ASSERT_TRUE(world.shard.send(1024));
  ASSERT_TRUE(world.run([&] { return world.worker.received == 1; }));
  world.expect_nothing_held();
}

/// A peer with a GPU that says what the test wants.
class HostileGpu : public testing::Test {
 protected:
  HostileGpu() : fabric(1, {}), side(0, fabric, hub, clock, "host-a", DeviceWorld::small()) {
    log::init("test", log::Level::error);
    auto made = hub.make({wire::ServiceKind::tool, "worker", 1, "host-a"}, "inproc://worker");
    peer = std::make_unique<Node>(std::move(made).value());
    EXPECT_TRUE(side.transport->connect("inproc://worker", Carrier::automatic).is_ok());
    turn(6);
    EXPECT_FALSE(peer->messages.empty()) << "no proposal";
    at = peer->messages.front().first;
  }

  void turn(int turns) {
    for (; turns > 0; --turns) {
      side.transport->poll(side, 8);
      peer->transport().poll(*peer, 8);
      fabric.step();
    }
  }
  DeviceHeader proposal() {
    wire::Frames frames = peer->messages.front().second;
    return take_header(frames).value();
  }
  void say(const DeviceHeader& header, wire::Frames frames = {}) {
    frames.insert(frames.begin(), encode_header(header));
    (void)peer->transport().send(at, std::move(frames));
    turn(8);
  }
  bool ended() const { return !peer->downs.empty(); }

  FakeFabric fabric;
  ManualClock clock;
  Hub hub;
  DeviceSide side;
  std::unique_ptr<Node> peer;
  LinkId at = 0;
};

TEST_F(HostileGpu, NonsenseEndsTheLink) {
  say({.magic = 7});
  EXPECT_TRUE(ended());
  EXPECT_GE(side.transport->stats().malformed, 1U);
}

TEST_F(HostileGpu, AMessageWithoutAHeaderEndsTheLink) {
  (void)peer->transport().send(at, {frame_of("no header")});
  turn(8);
  EXPECT_TRUE(ended());
}

TEST_F(HostileGpu, DataBeforeTheLinkIsUpEndsIt) {
  say({.kind = DeviceKind::data, .attempt = proposal().attempt}, {frame_of("early")});
  EXPECT_TRUE(ended());
}

TEST_F(HostileGpu, AnAnswerToAnotherCarrierEndsTheLink) {
  say({.kind = DeviceKind::accept,
       .carrier = DeviceCarrier::nccl,
       .attempt = proposal().attempt,
       .window = kFakeWindow});
  EXPECT_TRUE(ended());
}

TEST_F(HostileGpu, AProposalToTheDialerEndsTheLink) {
  say({.kind = DeviceKind::propose, .attempt = 99, .window = kFakeWindow});
  EXPECT_TRUE(ended());
}

TEST_F(HostileGpu, StaleAttemptsAreIgnored) {
  say({.kind = DeviceKind::accept, .carrier = DeviceCarrier::nccl, .attempt = 77});
  EXPECT_FALSE(ended());
}

TEST_F(HostileGpu, ARingThatIsNoneOnlyCostsTheCarrier) {
  say({.kind = DeviceKind::accept,
       .carrier = DeviceCarrier::peer,
       .attempt = proposal().attempt,
       .window = kFakeWindow},
      {frame_of("ring-999")});
  EXPECT_FALSE(ended());
  wire::Frames next = peer->messages.back().second;
  EXPECT_EQ(take_header(next).value().carrier, DeviceCarrier::nccl);
}

TEST(DeviceLane, RefusesWhatBreaksTheRules) {
  // A lane against a peer that announces tensors as the test wants.
  FakeFabric fabric(1, {});
  FakeGpu gpu(fabric, "host-a");
  Hub hub;
  auto transport = hub.make({wire::ServiceKind::tool, "a", 1}, "").value();
  const auto lane = [&] {
    DeviceLaneParts parts;
    parts.carrier = DeviceCarrier::nccl;
    const std::string out = gpu.make_id().value();
    const std::string in = gpu.make_id().value();
    parts.out = gpu.join(out, true).value();
    parts.in = gpu.join(in, false).value();
    parts.window_in = parts.window_out = kFakeWindow;
    return std::make_unique<DeviceLane>(std::move(parts), gpu, LinkLimits{}, transport->doorbell(),
                                        [](wire::Frames) { return Status::ok(); });
  };
  const DeviceHeader good{.kind = DeviceKind::data, .sequence = 1, .bytes = 4096};
  const auto verdict = [&](DeviceHeader header, wire::Frames frames) {
    const auto subject = lane();
    const Status status = subject->receive(header, std::move(frames));
    DeviceRemains remains = subject->stop();
    while (!remains.stopped()) fabric.step();
    return status.code();
  };
  EXPECT_EQ(verdict(good, {frame_of("x")}), Code::ok);
  auto bad = good;
  bad.sequence = 2;
  EXPECT_EQ(verdict(bad, {frame_of("x")}), Code::data_loss) << "a gap";
  bad = good;
  bad.bytes = kFakeWindow / 2;
  EXPECT_EQ(verdict(bad, {frame_of("x")}), Code::data_loss) << "larger than the window takes";
  bad = good;
  bad.bytes = 0;
  EXPECT_EQ(verdict(bad, {frame_of("x")}), Code::data_loss);
  bad = good;
  bad.offset = 256;
  EXPECT_EQ(verdict(bad, {frame_of("x")}), Code::data_loss) << "out of its place";
  bad = good;
  bad.frame = 2;
  EXPECT_EQ(verdict(bad, {frame_of("x")}), Code::data_loss) << "no such frame";
  bad = good;
  bad.released = 1;
  EXPECT_EQ(verdict(bad, {frame_of("x")}), Code::data_loss) << "credit for nothing";
  EXPECT_EQ(verdict({.kind = DeviceKind::data, .bytes = 8}, {frame_of("x")}), Code::data_loss);
  EXPECT_EQ(verdict({.kind = DeviceKind::data}, {}), Code::data_loss) << "nothing at all";
}

TEST(DeviceHandshake, PeersWithoutAGpuAreTalkedToAsEver) {
  FakeFabric fabric(1, {});
  ManualClock clock;
  Hub hub;
  DeviceSide side(0, fabric, hub, clock, "host-a", DeviceWorld::small());
  Node router(hub.make({wire::ServiceKind::tool, "router", 1}, "inproc://worker").value());
  ASSERT_TRUE(side.transport->connect("inproc://worker", Carrier::automatic).is_ok());
  for (int turns = 0; turns < 10; ++turns) {
    side.transport->poll(side, 8);
    router.transport().poll(router, 8);
  }
  ASSERT_NE(side.link, 0U);
  const wire::Frames frames = {frame_of("one"), frame_of("two")};
  ASSERT_TRUE(side.transport->send(side.link, frames).is_ok());
  router.transport().poll(router, 8);
  ASSERT_EQ(router.messages.size(), 1U);
  EXPECT_EQ(router.messages[0].second, frames) << "not a byte is added";
}

}  // namespace
}  // namespace fulgur::transport
