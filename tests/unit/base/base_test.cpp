// Status, Result, rng, bf16 and buffers: the small types everything else stands on.
#include <gtest/gtest.h>

#include <cmath>

#include "common/base/bf16.hpp"
#include "common/base/buffer_pool.hpp"
#include "common/base/rng.hpp"
#include "common/base/status.hpp"

namespace fulgur {
namespace {

Result<int> half_of(int value) {
  if (value % 2 != 0) return error(Code::invalid_argument, "{} is odd", value);
  return value / 2;
}

Result<int> quarter_of(int value) {
  FULGUR_ASSIGN_OR_RETURN(const int half, half_of(value));
  return half_of(half);
}

TEST(Result, CarriesValueOrReason) {
  EXPECT_EQ(*quarter_of(8), 2);
  EXPECT_EQ(quarter_of(6).status().to_string(), "invalid_argument: 3 is odd");
  EXPECT_THROW(quarter_of(6).value(), AssertionError);
}

TEST(Bf16, RoundsToNearestEvenAndKeepsNan) {
  EXPECT_EQ(to_float(to_bf16(1.0F)), 1.0F);
  EXPECT_EQ(to_bf16(1.0F + 0x1.0p-8F).bits, to_bf16(1.0F).bits) << "tie goes to even";
  EXPECT_EQ(to_float(to_bf16(1.0F + 0x1.8p-7F)), 1.0F + 0x1.0p-6F);
  EXPECT_TRUE(std::isnan(to_float(to_bf16(std::nanf("1")))));
  EXPECT_EQ(half_to_float(0x3c00), 1.0F);
  EXPECT_EQ(half_to_float(0x0001), 0x1.0p-24F);
}

TEST(Rng, DependsOnSeedAndCounterOnly) {
  Rng a(7);
  const auto first = a.next();
  const auto second = a.next();
  EXPECT_EQ(first, random_bits(7, 0));
  EXPECT_EQ(second, random_bits(7, 1));
  EXPECT_NE(random_bits(8, 0), first);
  for (int i = 0; i < 1000; ++i) EXPECT_LT(a.below(10), 10U);
}

// Where its source has nothing left it hands out a larger block that lies idle, then says so.
TEST(BufferPool, UsesWhatLiesIdleWhereItsSourceHasNothingLeft) {
  std::size_t left = 2;
  const BlockSource host = host_block_source();
  BufferPool pool(1 << 20, {host.kind,
                            [&](std::size_t bytes) {
                              return left == 0 ? nullptr : (--left, host.allocate(bytes));
                            },
                            host.free});
  auto large = pool.take(4096);
  auto small = pool.take(512);
  std::byte* const idle = large.get();
  EXPECT_EQ(pool.take_if_any(512), nullptr);
  EXPECT_THROW(pool.take(512), std::bad_alloc);
  large.reset();
  EXPECT_EQ(pool.take_if_any(8192), nullptr) << "nothing that large";
  for (int again = 0; again < 2; ++again) {
    auto borrowed = pool.take_if_any(512);
    EXPECT_EQ(borrowed.get(), idle);
  }
  EXPECT_EQ(pool.take(4096).get(), idle) << "it went back to its own shelf";
}

}  // namespace
}  // namespace fulgur
