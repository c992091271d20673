// The short way through the codec against Cap'n Proto's: the same bytes out, and from any bytes,
// whole or damaged, the same message or the same refusal.
#include <gtest/gtest.h>

#include <cstring>

#include "common/wire/codec.hpp"
#include "common/wire/codec_direct.hpp"
#include "tests/unit/wire/random_message.hpp"

namespace fulgur::wire {
namespace {

constexpr std::size_t kDispatch = 0;
constexpr std::size_t kCombine = 1;

/// An untraced Dispatch or Combine whose tensor is whole words.
Message plain_message(std::uint64_t seed, std::size_t kind) {
  Message message = RandomMessage(seed).make(kind);
  message.trace.high = message.trace.span = 0;
  Rng rng(seed);
  if (auto* dispatch = std::get_if<Dispatch>(&message.body)) {
    dispatch->hidden = 8 * (1 + static_cast<std::uint32_t>(rng.below(5)));
    dispatch->activations = random_block(
        rng, std::size_t{dispatch->rows} * dispatch->hidden * size_of(dispatch->dtype));
  } else {
    auto& combine = std::get<Combine>(message.body);
    combine.hidden = 8 * (1 + static_cast<std::uint32_t>(rng.below(5)));
    combine.outputs =
        random_block(rng, std::size_t{combine.routes} * combine.hidden * size_of(combine.dtype));
  }
  return message;
}

Frame writable_copy(const Frame& frame, std::byte*& data) {
  const auto words = std::shared_ptr<std::uint64_t[]>(new std::uint64_t[frame.size / 8 + 1]());
  data = reinterpret_cast<std::byte*>(words.get());
  std::memcpy(data, frame.data, frame.size);
  return {words, data, frame.size};
}

void expect_same_reading(const Frames& frames) {
  const auto direct = decode(frames);
  const auto by_segments = detail::decode_segments(frames);
  ASSERT_EQ(direct.is_ok(), by_segments.is_ok())
      << direct.status().to_string() << " / " << by_segments.status().to_string();
  if (direct.is_ok()) {
    ASSERT_EQ(*direct, *by_segments);
  } else {
    ASSERT_EQ(direct.status().code(), by_segments.status().code());
  }
}

TEST(DirectCodec, WritesWhatCapnProtoWrites) {
  for (std::uint64_t seed = 0; seed < 2'000; ++seed) {
    const Message message = plain_message(seed, seed % 2 == 0 ? kDispatch : kCombine);
    Frames direct;
    ASSERT_TRUE(detail::write_direct(message, direct)) << seed;
    ASSERT_EQ(direct, detail::encode_segments(message)) << seed;
    Message read;
    ASSERT_TRUE(detail::read_direct(direct, read)) << seed;
    ASSERT_EQ(read, message) << seed;
  }
}

TEST(DirectCodec, LeavesEverythingElseToCapnProto) {
  Frames frames;
  for (std::size_t kind = 0; kind < std::variant_size_v<Body>; ++kind) {
    Message message = RandomMessage(3).make(kind);
    message.trace.span = 1;
    EXPECT_FALSE(detail::write_direct(message, frames)) << kind;
    message.trace.span = 0;
    if (kind != kDispatch && kind != kCombine) {
      EXPECT_FALSE(detail::write_direct(message, frames)) << kind;
    }
    EXPECT_TRUE(frames.empty());
    message.trace.span = 1;
    EXPECT_FALSE(detail::read_direct(encode(message), message)) << kind;
  }
  Message odd = plain_message(1, kDispatch);
  auto& tensor = std::get<Dispatch>(odd.body).activations;
  tensor.size -= 2;
  EXPECT_FALSE(detail::write_direct(odd, frames));
  tensor = {};
  EXPECT_FALSE(detail::write_direct(odd, frames));
}

TEST(DirectCodec, ReadsEverySingleBitFlipLikeCapnProto) {
  for (const std::size_t kind : {kDispatch, kCombine}) {
    Frames frames = encode(plain_message(5, kind));
    std::byte* header = nullptr;
    frames[0] = writable_copy(frames[0], header);
    for (std::size_t bit = 0; bit < frames[0].size * 8; ++bit) {
      const auto mask = static_cast<std::byte>(1U << (bit % 8));
      header[bit / 8] ^= mask;
      ASSERT_NO_FATAL_FAILURE(expect_same_reading(frames)) << "kind " << kind << " bit " << bit;
      header[bit / 8] ^= mask;
    }
  }
}

TEST(DirectCodec, ReadsDamageAndWrongSizesLikeCapnProto) {
  for (std::uint64_t seed = 0; seed < 20'000; ++seed) {
    Rng rng(seed);
    Frames frames = encode(plain_message(seed, seed % 2 == 0 ? kDispatch : kCombine));
    std::byte* header = nullptr;
    frames[0] = writable_copy(frames[0], header);
    for (std::uint64_t damage = rng.below(3); damage > 0; --damage) {
      header[rng.below(frames[0].size)] = static_cast<std::byte>(rng.below(256));
    }
    Frame& cut = frames[rng.below(2)];
    if (rng.below(2) == 0) cut.size -= 8 * rng.below(cut.size / 8 + 1);
    if (rng.below(8) == 0) frames.push_back(frames[1]);
    ASSERT_NO_FATAL_FAILURE(expect_same_reading(frames)) << "seed " << seed;
  }
}

}  // namespace
}  // namespace fulgur::wire
