// The shared-memory ring alone: order and contents between two threads, damage of every kind, and
// the buffers it reads into.
#include <gtest/gtest.h>

#include <thread>

#include "common/transport/shm_ring.hpp"
#include "common/transport/shm_segment.hpp"
#include "tests/unit/transport/node.hpp"

namespace fulgur::transport {
namespace {

constexpr std::size_t kCapacity = 64U << 10;

struct Ring {
  Ring() : memory(new std::byte[kCapacity]()) {}
  RingControl control{};
  std::unique_ptr<std::byte[]> memory;
  BufferPool pool{8U << 20};
  RingSender sender{control, memory.get(), kCapacity, [] {}};
  RingReceiver receiver{control, memory.get(), kCapacity, pool, [] {}};
};

wire::Frames message(std::uint64_t seed) {
  Rng rng(seed);
  wire::Frames frames(1 + rng.below(4));
  for (wire::Frame& frame : frames) {
    frame = random_frame(rng.next(), rng.below(rng.below(8) == 0 ? 200'000 : 500));
  }
  return frames;
}

TEST(Ring, MessagesStreamInOrderBetweenThreads) {
  constexpr std::uint64_t kMessages = 2000;
  Ring ring;
  std::thread producer([&] {
    for (std::uint64_t i = 0; i < kMessages; ++i) {
      ring.sender.push(message(i));
      while (ring.sender.pending()) {
        ASSERT_TRUE(ring.sender.pump().is_ok());
        std::this_thread::yield();
      }
    }
  });
  std::uint64_t received = 0;
  while (received < kMessages) {
    const Status status = ring.receiver.pump(16, [&](wire::Frames frames) {
      EXPECT_TRUE(frames == message(received)) << received;
      for (const wire::Frame& frame : frames) {
        EXPECT_EQ(reinterpret_cast<std::uintptr_t>(frame.data) % 64, 0U);
      }
      ++received;
    });
    ASSERT_TRUE(status.is_ok()) << status.to_string();
    std::this_thread::yield();
  }
  producer.join();
  EXPECT_FALSE(ring.receiver.has_data());
}

TEST(Ring, ASleepingConsumerAndAWaitingProducerAreWoken) {
  int producer_rang = 0;
  int consumer_rang = 0;
  Ring ring;
  RingSender sender{ring.control, ring.memory.get(), kCapacity, [&] { ++producer_rang; }};
  RingReceiver receiver{ring.control, ring.memory.get(), kCapacity, ring.pool,
                        [&] { ++consumer_rang; }};
  sender.push({random_frame(1, 100)});
  ASSERT_TRUE(sender.pump().is_ok());
  EXPECT_EQ(producer_rang, 0);
  receiver.set_asleep(true);
  sender.push({random_frame(2, 3 * kCapacity)});
  ASSERT_TRUE(sender.pump().is_ok());
  EXPECT_EQ(producer_rang, 1) << "once, although several chunks were written";
  EXPECT_TRUE(sender.pending());

  int messages = 0;
  while (sender.pending()) {
    ASSERT_TRUE(receiver.pump(16, [&](wire::Frames) { ++messages; }).is_ok());
    ASSERT_TRUE(sender.can_progress());
    ASSERT_TRUE(sender.pump().is_ok());
  }
  ASSERT_TRUE(receiver.pump(16, [&](wire::Frames) { ++messages; }).is_ok());
  EXPECT_EQ(messages, 2);
  EXPECT_GE(consumer_rang, 1);
}

TEST(Ring, DamageIsRefusedOrHarmless) {
  for (std::uint64_t seed = 0; seed < 3000; ++seed) {
    Rng rng(seed);
    Ring ring;
    ring.sender.push(message(seed));
    ring.sender.push(message(seed + 1));
    ASSERT_TRUE(ring.sender.pump().is_ok());
    for (std::uint64_t damage = 1 + rng.below(3); damage > 0; --damage) {
      ring.memory[rng.below(64)] = static_cast<std::byte>(rng.below(256));
    }
    if (rng.below(2) == 0)
      ring.control.tail.store(rng.below(2) == 0 ? rng.next() : rng.below(2 * kCapacity));
    if (rng.below(4) == 0) ring.control.head.store(rng.next());
    std::size_t received = 0;
    const Status status = ring.receiver.pump(64, [&](wire::Frames frames) {
      for (const wire::Frame& frame : frames) received += frame.size;
    });
    EXPECT_TRUE(status.is_ok() || status.code() == Code::data_loss);
    EXPECT_LE(received, 2 * kCapacity);
    EXPECT_EQ(ring.receiver.pump(64, [](wire::Frames) {}).code(), status.code()) << "asked again";
    (void)ring.sender.pump();
  }
}

TEST(Ring, ASenderRefusesAnImpossibleHead) {
  Ring ring;
  ring.control.head.store(8);  // beyond what was ever written
  ring.sender.push({random_frame(1, 8)});
  EXPECT_EQ(ring.sender.pump().code(), Code::data_loss);
}

TEST(Buffers, AreReusedAndOutliveThePool) {
  auto pool = std::make_unique<BufferPool>(1U << 20);
  auto first = pool->take(10'000);
  const std::byte* address = first.get();
  EXPECT_EQ(reinterpret_cast<std::uintptr_t>(address) % 64, 0U);
  first.reset();
  auto second = pool->take(12'000);
  EXPECT_EQ(second.get(), address);
  EXPECT_NE(pool->take(12'000).get(), address);
  pool.reset();
  std::fill_n(second.get(), 12'000, std::byte{1});
}

TEST(Segment, NamesAndContentsOfOthersAreRefused) {
  EXPECT_EQ(ShmSegment::open("../etc/passwd").status().code(), Code::invalid_argument);
  EXPECT_EQ(ShmSegment::open("fulgur-/x").status().code(), Code::invalid_argument);
  EXPECT_EQ(ShmSegment::open("fulgur-1-0000").status().code(), Code::unavailable);
  EXPECT_EQ(ShmSegment::create(100'000).status().code(), Code::invalid_argument);
  const auto made = ShmSegment::create(64U << 10);
  ASSERT_TRUE(made.is_ok()) << made.status().to_string();
  EXPECT_TRUE(ShmSegment::open((*made)->name()).is_ok());
  (*made)->unlink();
  EXPECT_EQ(ShmSegment::open((*made)->name()).status().code(), Code::unavailable);
}

}  // namespace
}  // namespace fulgur::transport
