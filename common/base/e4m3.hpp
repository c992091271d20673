// e4m3 as a storage type (OCP FP8, "fn": no infinities, one NaN a sign): 4 exponent bits with bias
// 7, 3 mantissa bits, largest value 448. Conversion rounds to nearest even and saturates, the same
// bits as the hardware's cvt.rn.satfinite.e4m3x2.f32. And the scales of a block of such values.
#pragma once

#include <bit>
#include <cstdint>

#if defined(__CUDACC__)
#define FULGUR_E4M3_DEVICE __host__ __device__
#else
#define FULGUR_E4M3_DEVICE
#endif

namespace fulgur {

struct E4m3 {
  std::uint8_t bits = 0;
  friend bool operator==(E4m3, E4m3) = default;
};

inline constexpr float kE4m3Max = 448.0F;
inline constexpr std::uint8_t kE4m3Nan = 0x7f;

constexpr float to_float(E4m3 value) {
  const std::uint32_t sign = static_cast<std::uint32_t>(value.bits & 0x80U) << 24;
  const std::uint32_t exponent = (value.bits >> 3) & 0xfU;
  const std::uint32_t mantissa = value.bits & 7U;
  if (exponent == 0xfU && mantissa == 7U) return std::bit_cast<float>(sign | 0x7fc00000U);
  if (exponent == 0) {
    const float magnitude = static_cast<float>(mantissa) * 0x1.0p-9F;
    return sign != 0 ? -magnitude : magnitude;
  }
  return std::bit_cast<float>(sign | ((exponent + 120U) << 23) | (mantissa << 20));
}

constexpr E4m3 to_e4m3(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const auto sign = static_cast<std::uint8_t>((bits >> 24) & 0x80U);
  const std::uint32_t magnitude = bits & 0x7fffffffU;
  if (magnitude > 0x7f800000U) return {kE4m3Nan};     // as the hardware: the sign of a NaN is lost
  constexpr std::uint32_t kLeastNormal = 121U << 23;  // 2^-6
  std::uint32_t code = 0;
  if (magnitude >= kLeastNormal) {
    // The exponent re-biased, then 20 bits of mantissa rounded away; a carry reaches the exponent.
    const std::uint32_t rebiased = magnitude - (120U << 23);
    code = (rebiased + 0x7ffffU + ((rebiased >> 20) & 1U)) >> 20;
  } else {
    // Units of 2^-9, by adding a number whose last place they are.
    const float shifted = std::bit_cast<float>(magnitude) + 0x1.0p14F;
    code = std::bit_cast<std::uint32_t>(shifted) & 0xfU;
  }
  if (code > 0x7eU) code = 0x7eU;
  return {static_cast<std::uint8_t>(sign | code)};
}

/// How a block of values with the largest magnitude `amax` is stored: code = e4m3(value * inverse),
/// value ~ code * scale.
struct E4m3Scale {
  float scale;
  float inverse;
};
/// The floor keeps both factors finite for a block of zeros or of subnormals. A NaN or an infinity
/// in a block is no part of amax's promise: it ends as NaN.
FULGUR_E4M3_DEVICE constexpr E4m3Scale e4m3_scale(float amax) {
  constexpr float kFloor = 0x1.0p-100F;
  const float top = amax > kFloor ? amax : kFloor;
  return {top / kE4m3Max, kE4m3Max / top};
}

/// Rows and columns of a weight block with one scale; columns of an activation block.
inline constexpr int kE4m3Block = 128;

}  // namespace fulgur
