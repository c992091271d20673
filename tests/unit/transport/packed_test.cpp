// Packed parts: what goes in comes out, only what fits is packed, and from any other bytes nothing.
#include "common/transport/packed_part.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <string>
#include <vector>

#include "common/base/rng.hpp"
#include "common/wire/limits.hpp"

namespace fulgur::transport {
namespace {

wire::Frame random_frame(Rng& rng, std::size_t size) {
  auto text = std::make_shared<std::string>(size, ' ');
  for (char& c : *text) c = static_cast<char>(rng.below(256));
  return {text, reinterpret_cast<const std::byte*>(text->data()), size};
}

/// 8-byte-aligned bytes, as libzmq hands parts out.
struct Block {
  explicit Block(std::size_t bytes) : words(new std::uint64_t[bytes / 8 + 1]), size(bytes) {}
  std::span<std::byte> bytes() const { return {reinterpret_cast<std::byte*>(words.get()), size}; }
  std::shared_ptr<std::uint64_t[]> words;
  std::size_t size;
};

Block packed(std::span<const wire::Frame> frames) {
  Block block(packed_size(frames));
  pack(frames, block.bytes().data());
  return block;
}

bool unpacks(std::span<const std::byte> part) {
  wire::Frames frames;
  return unpack(part, nullptr, frames);
}

TEST(PackedPart, GivesBackItsFramesAligned) {
  for (std::uint64_t seed = 0; seed < 500; ++seed) {
    Rng rng(seed);
    wire::Frames frames;
    for (std::uint64_t i = rng.below(8); i > 0; --i) {
      frames.push_back(random_frame(rng, rng.below(300)));
    }
    const Block block = packed(frames);
    wire::Frames back;
    ASSERT_TRUE(unpack(block.bytes(), block.words, back));
    ASSERT_EQ(back, frames);
    for (const wire::Frame& frame : back) {
      EXPECT_EQ(reinterpret_cast<std::uintptr_t>(frame.data) % 8, 0U);
      EXPECT_EQ(frame.owner, block.words);
    }
  }
}

TEST(PackedPart, TakesTheFirstFramesThatFit) {
  Rng rng(1);
  const wire::Frame header = random_frame(rng, 144);
  const wire::Frame row = random_frame(rng, 12'288);
  const wire::Frame huge = random_frame(rng, kMaxPackedBytes);
  const auto count = [](const wire::Frames& frames) { return packable(frames).size(); };
  EXPECT_EQ(count({header, row}), 2U);
  EXPECT_EQ(count({header, row, header}), 3U);
  EXPECT_EQ(count({header, row, row}), 2U);
  EXPECT_EQ(count({header, huge, header}), 1U);
  EXPECT_EQ(count({huge, header}), 0U);
  EXPECT_EQ(count(wire::Frames(wire::kMaxFrames, header)), wire::kMaxFrames);
  const wire::Frame exact = random_frame(rng, kMaxPackedBytes - 16);
  EXPECT_EQ(count({exact}), 1U);
  EXPECT_EQ(packed_size(wire::Frames{exact}), kMaxPackedBytes);
}

TEST(PackedPart, RefusesEveryTruncationAndLongerParts) {
  Rng rng(2);
  const Block block = packed(wire::Frames{random_frame(rng, 5), random_frame(rng, 24)});
  for (std::size_t size = 0; size < block.size; ++size) {
    EXPECT_FALSE(unpacks(block.bytes().first(size))) << size;
  }
  Block longer(block.size + 8);
  std::memset(longer.words.get(), 0, longer.size);
  std::memcpy(longer.words.get(), block.words.get(), block.size);
  EXPECT_FALSE(unpacks(longer.bytes()));
}

TEST(PackedPart, RefusesOtherHeadsCountsAndSizes) {
  Rng rng(3);
  const Block block = packed(wire::Frames{random_frame(rng, 8), random_frame(rng, 8)});
  const auto with = [&](std::size_t word, std::uint64_t value) {
    const std::uint64_t kept = std::exchange(block.words[word], value);
    const bool good = unpacks(block.bytes());
    block.words[word] = kept;
    return good;
  };
  const std::uint64_t head = block.words[0];
  EXPECT_TRUE(with(0, head));
  EXPECT_FALSE(with(0, head ^ 0x01));        // magic
  EXPECT_FALSE(with(0, head ^ 0x100));       // kind
  EXPECT_FALSE(with(0, head ^ 0x10000));     // 3 frames
  EXPECT_FALSE(with(0, head ^ 0xffff0000));  // 65,533
  EXPECT_FALSE(with(0, head | 1ULL << 63));  // to be zero
  constexpr std::uint64_t kMost = ~std::uint64_t{0};
  for (const std::uint64_t size :
       std::vector<std::uint64_t>{0, 9, 17, kMost / 2 + 1, kMost - 7, kMost}) {
    EXPECT_FALSE(with(1, size)) << size;
    EXPECT_FALSE(with(2, size)) << size;
  }
}

/// Frames of an accepted part lie inside it, whatever the bytes.
TEST(PackedPart, RandomDamageNeverReachesOutside) {
  for (std::uint64_t seed = 0; seed < 20'000; ++seed) {
    Rng rng(seed);
    wire::Frames sent;
    for (std::uint64_t i = rng.below(5); i > 0; --i) {
      sent.push_back(random_frame(rng, rng.below(40)));
    }
    const Block block = packed(sent);
    for (std::uint64_t i = rng.below(4); i > 0; --i) {
      block.bytes()[rng.below(block.size)] = static_cast<std::byte>(rng.below(256));
    }
    wire::Frames frames;
    if (!unpack(block.bytes(), nullptr, frames)) continue;
    for (const wire::Frame& frame : frames) {
      const auto offset = static_cast<std::size_t>(frame.data - block.bytes().data());
      ASSERT_LE(offset, block.size) << seed;
      ASSERT_LE(frame.size, block.size - offset) << seed;
    }
  }
}

}  // namespace
}  // namespace fulgur::transport
