// Two processes with a GPU each, on one thread and virtual time: DeviceTransports over an
// in-process hub and a fake fabric. Every message says who sent it, in which life of the link and
// as which, so that a receiver sees loss, repetition, disorder and damage.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "common/transport/device_transport.hpp"
#include "common/transport/inproc.hpp"
#include "tests/unit/transport/fake_gpu.hpp"

namespace fulgur::transport {

inline constexpr std::uint64_t kFakeWindow = 16U << 10;

class DeviceSide final : public Handler {
 public:
  struct Label {
    std::uint64_t side, life, index, tensor_bytes;
  };

  DeviceSide(std::uint64_t side, FakeFabric& fabric, Hub& hub, const Clock& clock,
             const std::string& host, DeviceOptions options)
      : gpu(fabric, host), side_(side), fabric_(fabric) {
    const std::string name = side == 0 ? "shard" : "worker";
    const Identity identity{wire::ServiceKind::tool, name, 1, gpu.identity()};
    auto inner = hub.make(identity, side == 0 ? "" : "inproc://worker");
    EXPECT_TRUE(inner.is_ok());
    transport = std::make_unique<DeviceTransport>(std::move(inner).value(), gpu, options, clock);
  }

  void on_link_up(LinkId id, const Peer& peer) override {
    EXPECT_EQ(link, 0U) << "up twice";
    link = id;
    carrier = peer.device;
    ++ups;
    life_ += 1;
    sent = received = 0;
    peer_life_ = 0;
  }
  void on_link_down(LinkId id, const Status&) override {
    EXPECT_EQ(link, id) << "down without up";
    link = 0;
    ++downs;
  }
  void on_message(LinkId id, wire::Frames frames) override {
    EXPECT_EQ(link, id) << "a message on a link that is down";
    check(frames);
    ++received;
    if (answers_left > 0) {
      --answers_left;
      (void)send(rng_.below(6000));
    }
    held.push_back(std::move(frames));
  }

  /// One message; tensor_bytes 0: host frames only. False when refused.
  bool send(std::uint64_t tensor_bytes) {
    if (link == 0) return false;
    tensor_bytes = tensor_bytes / 8 * 8;
    if (tensor_bytes == sizeof(Label)) tensor_bytes += 8;  // size tells a label from a tensor
    const Label label{side_, life_, sent, tensor_bytes};
    auto text = std::make_shared<const Label>(label);
    const auto* data = reinterpret_cast<const std::byte*>(text.get());
    wire::Frames frames = {{text, data, sizeof(Label)}};
    if (tensor_bytes != 0) {
      auto block = fabric_.allocate(tensor_bytes);
      fill(label, block.get());
      const std::byte* bytes = block.get();
      wire::Frame tensor{std::move(block), bytes, tensor_bytes, MemoryKind::device, nullptr};
      frames.insert(frames.begin() + static_cast<std::ptrdiff_t>(sent % 2), std::move(tensor));
    }
    if (!transport->send(link, std::move(frames)).is_ok()) return false;
    ++sent;
    return true;
  }

  /// Lets go of a message that was received, after another look at its bytes.
  void drop(std::size_t at) {
    verify(held[at]);
    held.erase(held.begin() + static_cast<std::ptrdiff_t>(at));
  }

  static void fill(const Label& label, std::byte* out) {
    for (std::uint64_t i = 0; i * 8 < label.tensor_bytes; ++i) {
      const std::uint64_t word =
          random_bits(label.side * 7919 + label.life * 104'729 + label.index, i);
      std::memcpy(out + i * 8, &word, 8);
    }
  }

  FakeGpu gpu;
  std::unique_ptr<DeviceTransport> transport;
  LinkId link = 0;
  DeviceCarrier carrier = DeviceCarrier::none;
  std::uint64_t ups = 0, downs = 0;
  std::uint64_t sent = 0, received = 0;  ///< in this life of the link
  std::uint64_t on_device = 0;           ///< tensors that arrived in device memory
  int answers_left = 0;
  std::deque<wire::Frames> held;

 private:
  Label verify(const wire::Frames& frames) {
    const wire::Frame* tensor = nullptr;
    Label label{};
    for (const wire::Frame& frame : frames) {
      if (frame.size == sizeof(Label) && !wire::is_device(frame)) {
        std::memcpy(&label, frame.data, sizeof(Label));
      }
    }
    for (const wire::Frame& frame : frames) {
      if (wire::is_device(frame) || frame.size != sizeof(Label)) tensor = &frame;
    }
    EXPECT_EQ(frames.size(), label.tensor_bytes == 0 ? 1U : 2U);
    if (label.tensor_bytes == 0) return label;
    EXPECT_EQ(tensor->size, label.tensor_bytes);
    std::vector<std::byte> wanted(label.tensor_bytes);
    fill(label, wanted.data());
    EXPECT_EQ(std::memcmp(tensor->data, wanted.data(), wanted.size()), 0) << "damaged";
    if (wire::is_device(*tensor)) ++on_device;
    return label;
  }

  void check(const wire::Frames& frames) {
    const Label label = verify(frames);
    EXPECT_EQ(label.side, 1 - side_);
    EXPECT_EQ(label.index, received) << "lost, repeated or out of order";
    if (peer_life_ == 0) peer_life_ = label.life;
    EXPECT_EQ(label.life, peer_life_) << "from an earlier life of the link";
  }

  const std::uint64_t side_;
  FakeFabric& fabric_;
  Rng rng_{side_ + 99};
  std::uint64_t life_ = 0;
  std::uint64_t peer_life_ = 0;
};

/// shard dials worker.
class DeviceWorld {
 public:
  explicit DeviceWorld(std::uint64_t seed, FakeFaults faults = {}, bool same_host = true,
                       DeviceOptions options = small(), LinkLimits inner_limits = {})
      : fabric(seed, faults),
        hub(inner_limits),
        shard(0, fabric, hub, clock, "host-a", options),
        worker(1, fabric, hub, clock, same_host ? "host-a" : "host-b", options) {
    EXPECT_TRUE(shard.transport->connect("inproc://worker", Carrier::automatic).is_ok());
  }

  static DeviceOptions small() {
    DeviceOptions options;
    options.window_bytes = kFakeWindow;
    options.limits = {8, 64U << 10};
    options.handshake = 50 * kMillisecond;
    return options;
  }

  void turn() {
    shard.transport->poll(shard, 4);
    fabric.step();
    worker.transport->poll(worker, 4);
    fabric.step();
    clock.advance(100 * kMicrosecond);
  }

  /// Turns until `done` holds; false after many.
  template <class Done>
  bool run(Done done, int turns = 20'000) {
    for (; turns > 0 && !done(); --turns) turn();
    return done();
  }
  bool both_up() const { return shard.link != 0 && worker.link != 0; }

  void drop_all() {
    while (!shard.held.empty()) shard.drop(0);
    while (!worker.held.empty()) worker.drop(0);
  }

  /// Nothing is held on a device any more, by anybody.
  void expect_nothing_held() {
    drop_all();
    EXPECT_TRUE(run([&] {
      return shard.transport->unburied() == 0 && worker.transport->unburied() == 0 &&
             shard.transport->bytes_outstanding() == 0 &&
             worker.transport->bytes_outstanding() == 0;
    })) << "memory is held";
    for (int turns = 0; turns < 20; ++turns) turn();  // the last reports arrive
    if (both_up()) {
      expect_books_agree(shard, worker);
      expect_books_agree(worker, shard);
    }
    shard.transport.reset();
    worker.transport.reset();
    EXPECT_EQ(fabric.live_blocks, 0U);
    EXPECT_TRUE(fabric.channels.empty());
    for (const std::string& violation : fabric.violations) ADD_FAILURE() << violation;
  }

  /// Credits are conserved: what one end took the other has counted, got back and reported alike.
  static void expect_books_agree(const DeviceSide& from, const DeviceSide& to) {
    const DeviceCredits out = from.transport->credits(from.link);
    const DeviceCredits in = to.transport->credits(to.link);
    EXPECT_EQ(out.taken, in.announced);
    EXPECT_EQ(in.returned, in.announced);
    EXPECT_EQ(out.freed, in.reported);
    EXPECT_LT(in.returned - in.reported, kFakeWindow / 4) << "a report is due";
  }

  FakeFabric fabric;
  ManualClock clock;
  Hub hub;
  DeviceSide shard;
  DeviceSide worker;
};

}  // namespace fulgur::transport
