// The shared exponential against the library's, and tables.
#include "kernels/reference/scalar_math.hpp"

#include <gtest/gtest.h>

#include "kernels/reference/tables.hpp"

namespace fulgur::kernels {
namespace {

TEST(ScalarMathTest, ExponentialIsWithinTwoUlps) {
  const FlushSubnormals mode;
  for (float x = -87.0F; x < 88.7F; x += 0.000917F) {
    const double exact = std::exp(static_cast<double>(x));
    const double ulp = std::ldexp(1.0, std::ilogb(exact) - 23);
    ASSERT_LE(std::abs(exp_fixed(x) - exact), 2 * ulp) << x;
  }
}

TEST(ScalarMathTest, ExponentialAtItsEnds) {
  const FlushSubnormals mode;
  EXPECT_EQ(exp_fixed(0.0F), 1.0F);
  EXPECT_EQ(exp_fixed(-INFINITY), 0.0F);
  EXPECT_EQ(exp_fixed(-200.0F), 0.0F);
  EXPECT_EQ(exp_fixed(INFINITY), INFINITY);
  EXPECT_EQ(exp_fixed(200.0F), INFINITY);
  EXPECT_TRUE(std::isnan(exp_fixed(NAN)));
}

TEST(ScalarMathTest, DecayPowersAreOfTheRate) {
  const auto powers = decay_powers({0.5F, 0.0F});
  ASSERT_EQ(powers.size(), 2 * (kLightningBlock + 1));
  EXPECT_EQ(powers[0], 1.0F);
  EXPECT_FLOAT_EQ(powers[kLightningBlock], std::exp(-0.5F * kLightningBlock));
  EXPECT_EQ(powers.back(), 1.0F);
}

}  // namespace
}  // namespace fulgur::kernels
