// The rate limit of background loading on virtual time.
#include "services/expert/byte_bucket.hpp"

#include <gtest/gtest.h>

namespace fulgur::expert {
namespace {

/// Bytes taken within `duration` by somebody who waits exactly as told.
std::uint64_t taken(ByteBucket& bucket, std::uint64_t piece, Nanoseconds duration) {
  std::uint64_t sum = 0;
  for (Nanoseconds now = 0; now < duration;) {
    const Nanoseconds wait = bucket.take(piece, now);
    if (wait == 0) sum += piece;
    now += wait;
  }
  return sum;
}

TEST(ByteBucket, HoldsTheRate) {
  for (const std::uint64_t piece : {1'000U, 70'000U, 3'000'000U}) {
    ByteBucket bucket(1'000'000);
    const auto sum = static_cast<double>(taken(bucket, piece, 100 * kSecond));
    EXPECT_GE(sum, 100e6) << piece;
    EXPECT_LE(sum, 100e6 + 0.1e6 + 2.0 * static_cast<double>(piece)) << piece;
  }
}

TEST(ByteBucket, WithoutARateNothingWaits) {
  ByteBucket bucket(0);
  for (int i = 0; i < 100; ++i) EXPECT_EQ(bucket.take(1U << 30, 0), 0);
}

TEST(ByteBucket, APieceLargerThanTheRateGoesAtOnceAndIsPaidFor) {
  ByteBucket bucket(1'000);
  EXPECT_EQ(bucket.take(10'100, 0), 0);
  const Nanoseconds wait = bucket.take(1, 0);
  EXPECT_NEAR(static_cast<double>(wait), 10e9, 1e3);
  EXPECT_EQ(bucket.take(1, wait), 0);
}

TEST(ByteBucket, UrgentLoadsDelayOthersBySoMuchOnly) {
  ByteBucket bucket(1'000);
  EXPECT_EQ(bucket.take(1, 0), 0);
  bucket.charge(1'000'000);
  EXPECT_NEAR(static_cast<double>(bucket.take(1, 0)), 1e9, 1e3);
}

}  // namespace
}  // namespace fulgur::expert
