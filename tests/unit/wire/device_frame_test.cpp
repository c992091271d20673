// Tensor blocks in device memory: the codec hands their addresses on and reads none of their bytes.
// The "device" here is address space without access, so a read would end the test.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>

#include "common/base/rng.hpp"
#include "common/wire/codec.hpp"

namespace fulgur::wire {
namespace {

constexpr std::size_t kDeviceBytes = 1U << 20;

class Untouchable {
 public:
  Untouchable()
      : data_(mmap(nullptr, kDeviceBytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)) {}
  ~Untouchable() { munmap(data_, kDeviceBytes); }
  Frame frame(std::size_t offset, std::size_t size, std::shared_ptr<const void> owner = nullptr) {
    return {std::move(owner), static_cast<const std::byte*>(data_) + offset, size,
            MemoryKind::device, this};
  }

 private:
  void* data_;
};

Message dispatch_of(const Frame& tensor, std::uint32_t rows, std::uint32_t hidden) {
  Dispatch body;
  body.id = 7;
  body.rows = rows;
  body.hidden = hidden;
  for (std::uint32_t row = 0; row < rows; ++row) body.routes.push_back({row, 0, 3});
  body.activations = tensor;
  Message message;
  message.sender = "attention-0";
  message.body = std::move(body);
  return message;
}

TEST(DeviceFrame, IsHandedOnAndNeverRead) {
  Untouchable device;
  const auto owner = std::make_shared<int>(1);
  const Message sent = dispatch_of(device.frame(4096, 6 * 512 * 2, owner), 6, 512);
  Frames frames = encode(sent);
  ASSERT_EQ(std::count_if(frames.begin(), frames.end(), is_device), 1);
  EXPECT_EQ(frames.back().ready, &device);
  EXPECT_EQ(frames.back().owner, owner);
  const auto back = decode(std::move(frames));
  ASSERT_TRUE(back.is_ok()) << back.status().to_string();
  const auto& got = std::get<Dispatch>(back->body).activations;
  EXPECT_EQ(got, std::get<Dispatch>(sent.body).activations);
  EXPECT_EQ(got.memory, MemoryKind::device);
  EXPECT_EQ(got.ready, &device);
  EXPECT_EQ(got.owner, owner);
}

TEST(DeviceFrame, AnAnswerMayBeOneToo) {
  Untouchable device;
  Combine body;
  body.routes = 4;
  body.hidden = 64;
  body.outputs = device.frame(0, 4 * 64 * 2);
  Message message;
  message.body = body;
  const auto back = decode(encode(message));
  ASSERT_TRUE(back.is_ok()) << back.status().to_string();
  EXPECT_EQ(std::get<Combine>(back->body), body);
}

TEST(DeviceFrame, OnlyOneAndOnlyForTensors) {
  Untouchable device;
  Frames frames = encode(dispatch_of(device.frame(0, 2 * 64 * 2), 2, 64));
  frames.push_back(device.frame(8192, 64));
  EXPECT_EQ(decode(std::move(frames)).status().code(), Code::data_loss);

  Message message;
  message.body = SnapshotChunk{1, 0, 0, 0, device.frame(0, 64)};
  EXPECT_EQ(decode(encode(message)).status().code(), Code::data_loss);
}

TEST(DeviceFrame, DamagedHeadersNeverReachIt) {
  Untouchable device;
  const Frames whole = encode(dispatch_of(device.frame(0, 2 * 64 * 2), 2, 64));
  Rng rng(20);
  for (int round = 0; round < 20'000; ++round) {
    Frames frames = whole;
    for (Frame& frame : frames) {
      if (is_device(frame)) continue;
      const auto copy = std::shared_ptr<std::uint64_t[]>(new std::uint64_t[frame.size / 8]);
      auto* bytes = reinterpret_cast<unsigned char*>(copy.get());
      std::copy_n(reinterpret_cast<const unsigned char*>(frame.data), frame.size, bytes);
      // Words that are pointers into the tensor's segment are what could reach the device.
      for (std::uint64_t n = 1 + rng.below(4); n > 0; --n) {
        const std::size_t at = rng.below(frame.size);
        bytes[at] =
            static_cast<unsigned char>(rng.below(3) == 0 ? 2 + 8 * rng.below(32) : rng.below(256));
      }
      if (rng.below(3) == 0) {
        const std::size_t word = rng.below(frame.size / 8);
        copy[word] = 2 | (rng.below(40) << 3) | (1ULL << 32);  // far pointer, segment 1
      }
      frame = {copy, reinterpret_cast<const std::byte*>(bytes), frame.size};
    }
    (void)decode(std::move(frames));  // any Status or Message, and no fault
  }
}

}  // namespace
}  // namespace fulgur::wire
