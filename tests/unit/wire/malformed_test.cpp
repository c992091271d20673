// Damaged frames: every single-bit flip, every truncation, dropped and repeated frames, random
// bytes. The decoder must answer with a Status or with a message that passes validate().
#include <gtest/gtest.h>

#include <cstring>

#include "common/wire/codec.hpp"
#include "tests/unit/wire/random_message.hpp"

namespace fulgur::wire {
namespace {

struct Owned {
  std::shared_ptr<std::uint64_t[]> words;
  std::size_t size = 0;
  std::byte* data() const { return reinterpret_cast<std::byte*>(words.get()); }
};

std::vector<Owned> copy_of(const Frames& frames) {
  std::vector<Owned> copies;
  for (const Frame& frame : frames) {
    Owned copy{std::shared_ptr<std::uint64_t[]>(new std::uint64_t[frame.size / 8 + 1]()),
               frame.size};
    std::memcpy(copy.data(), frame.data, frame.size);
    copies.push_back(std::move(copy));
  }
  return copies;
}

Frames frames_of(const std::vector<Owned>& copies) {
  Frames frames;
  for (const Owned& copy : copies) frames.push_back({copy.words, copy.data(), copy.size});
  return frames;
}

void expect_total(const Frames& frames) {
  const auto decoded = decode(frames);
  if (decoded.is_ok()) {
    const Status valid = validate(*decoded);
    ASSERT_TRUE(valid.is_ok()) << valid.to_string();
  } else {
    ASSERT_TRUE(decoded.status().code() == Code::data_loss ||
                decoded.status().code() == Code::failed_precondition)
        << decoded.status().to_string();
  }
}

TEST(Malformed, EverySingleBitFlip) {
  for (std::size_t kind = 0; kind < std::variant_size_v<Body>; ++kind) {
    const auto copies = copy_of(encode(RandomMessage(17).make(kind)));
    for (const Owned& copy : copies) {
      for (std::size_t bit = 0; bit < copy.size * 8; ++bit) {
        const auto mask = static_cast<std::byte>(1U << (bit % 8));
        copy.data()[bit / 8] ^= mask;
        expect_total(frames_of(copies));
        copy.data()[bit / 8] ^= mask;
      }
    }
  }
}

TEST(Malformed, EveryTruncationIsRefusedOrValid) {
  for (std::size_t kind = 0; kind < std::variant_size_v<Body>; ++kind) {
    auto copies = copy_of(encode(RandomMessage(18).make(kind)));
    for (Owned& copy : copies) {
      const std::size_t whole = copy.size;
      for (copy.size = 0; copy.size < whole; ++copy.size) {
        const auto decoded = decode(frames_of(copies));
        EXPECT_TRUE(copy.size % 8 == 0 || decoded.status().code() == Code::data_loss);
        expect_total(frames_of(copies));
      }
      copy.size = whole;
    }
  }
}

TEST(Malformed, MissingRepeatedAndTooManyFrames) {
  const Frames frames = encode(RandomMessage(19).make(0));
  ASSERT_EQ(frames.size(), 2U);
  EXPECT_EQ(decode({}).status().code(), Code::data_loss);
  EXPECT_EQ(decode({frames[0]}).status().code(), Code::data_loss);
  expect_total({frames[1]});
  expect_total({frames[1], frames[0]});
  expect_total({frames[0], frames[0]});
  expect_total({frames[0], frames[1], frames[1]});
  EXPECT_EQ(decode(Frames(kMaxFrames + 1, frames[0])).status().code(), Code::data_loss);
}

TEST(Malformed, RandomBytes) {
  for (std::uint64_t seed = 0; seed < 20'000; ++seed) {
    Rng rng(seed);
    Frames frames;
    const std::size_t count = 1 + rng.below(3);
    for (std::size_t i = 0; i < count; ++i) frames.push_back(random_block(rng, 8 * rng.below(40)));
    expect_total(frames);
  }
}

TEST(Malformed, RandomDamageInManyPlaces) {
  for (std::uint64_t seed = 0; seed < 20'000; ++seed) {
    Rng rng(seed);
    const auto copies = copy_of(encode(RandomMessage(seed).make(seed % std::variant_size_v<Body>)));
    for (std::uint64_t damage = 1 + rng.below(4); damage > 0; --damage) {
      const Owned& copy = copies[rng.below(copies.size())];
      copy.data()[rng.below(copy.size)] = static_cast<std::byte>(rng.below(256));
    }
    expect_total(frames_of(copies));
  }
}

}  // namespace
}  // namespace fulgur::wire
