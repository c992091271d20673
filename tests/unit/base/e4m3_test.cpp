// e4m3 against its definition, code by code: every value, every rounding interval, saturation.
#include "common/base/e4m3.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace fulgur {
namespace {

/// The value of a code by the formula of the format.
double defined_value(unsigned code) {
  const double sign = (code & 0x80U) != 0 ? -1 : 1;
  const int exponent = static_cast<int>(code >> 3 & 0xfU);
  const int mantissa = static_cast<int>(code & 7U);
  return sign *
         (exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 7 - 3));
}
bool is_nan(unsigned code) { return (code & 0x7fU) == 0x7fU; }
E4m3 code(unsigned bits) { return {static_cast<std::uint8_t>(bits)}; }

TEST(E4m3, EveryCodeHasItsValueAndComesBack) {
  for (unsigned bits = 0; bits < 256; ++bits) {
    const float value = to_float(code(bits));
    if (is_nan(bits)) {
      EXPECT_TRUE(std::isnan(value)) << bits;
      EXPECT_EQ(to_e4m3(value).bits, kE4m3Nan);
      continue;
    }
    EXPECT_EQ(static_cast<double>(value), defined_value(bits)) << bits;
    EXPECT_EQ(std::signbit(value), bits >= 128) << bits;
    EXPECT_EQ(to_e4m3(value).bits, bits);
  }
}

TEST(E4m3, RoundsToNearestAndTiesToEven) {
  for (unsigned bits = 0; bits + 1 <= 0x7eU; ++bits) {
    const float low = to_float(code(bits)), high = to_float(code(bits + 1));
    const float middle = (low + high) / 2;  // exact
    const unsigned even = bits % 2 == 0 ? bits : bits + 1;
    for (const unsigned sign : {0U, 0x80U}) {
      const float s = sign == 0 ? 1.0F : -1.0F;
      EXPECT_EQ(to_e4m3(s * middle).bits, sign | even) << bits;
      EXPECT_EQ(to_e4m3(s * std::nextafter(middle, 0.0F)).bits, sign | bits) << bits;
      EXPECT_EQ(to_e4m3(s * std::nextafter(middle, 1e9F)).bits, sign | (bits + 1)) << bits;
    }
  }
}

TEST(E4m3, SaturatesAndKeepsNan) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const float large : {448.0F, 449.0F, 464.0F, 465.0F, 480.0F, 1e30F, kInfinity}) {
    EXPECT_EQ(to_e4m3(large).bits, 0x7eU) << large;
    EXPECT_EQ(to_e4m3(-large).bits, 0xfeU) << large;
  }
  EXPECT_EQ(to_e4m3(std::numeric_limits<float>::quiet_NaN()).bits, kE4m3Nan);
  EXPECT_EQ(to_e4m3(0.0F).bits, 0);
  EXPECT_EQ(to_e4m3(-0.0F).bits, 0x80);
  EXPECT_EQ(to_e4m3(std::numeric_limits<float>::denorm_min()).bits, 0);
}

TEST(E4m3, TheLargestOfABlockIsTheLargestCode) {
  for (const float amax : {1e-30F, 1e-3F, 0.7F, 1.0F, 3.3333F, 448.0F, 1e30F}) {
    const E4m3Scale scale = e4m3_scale(amax);
    EXPECT_EQ(to_e4m3(amax * scale.inverse).bits, 0x7eU) << amax;
    EXPECT_NEAR(to_float(to_e4m3(amax * scale.inverse)) * scale.scale / amax, 1, 1e-6) << amax;
  }
  const E4m3Scale zero = e4m3_scale(0);
  EXPECT_EQ(to_e4m3(0 * zero.inverse).bits, 0);
  EXPECT_GT(zero.scale, 0);
  EXPECT_TRUE(std::isfinite(zero.inverse));
}

}  // namespace
}  // namespace fulgur
