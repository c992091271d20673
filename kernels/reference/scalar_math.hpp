// The scalar definition of the arithmetic all backends share: exponential, SiLU, lane sums, and the
// floating-point mode. Every function is exact in the sense that a vector version with the same
// operations gives the same bits. Not to be included by files compiled for other instruction sets.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#include "common/base/bf16.hpp"
#include "kernels/include/fulgur/kernels/backend.hpp"
#include "kernels/reference/exp_constants.hpp"

namespace fulgur::kernels {

/// Subnormal numbers are zero, as operand and as result, while one of these lives: what vdpbf16ps
/// does by nature. Rounding is to nearest even and no exception is raised.
class FlushSubnormals {
 public:
#if defined(__x86_64__)
  FlushSubnormals() : saved_(_mm_getcsr()) { _mm_setcsr(kMode); }
  ~FlushSubnormals() { _mm_setcsr(saved_); }

 private:
  static constexpr unsigned kMode = 0x1f80U | 0x8040U;  // all exceptions masked, FTZ and DAZ
  unsigned saved_;

 public:
#else
  FlushSubnormals() = default;
#endif
  FlushSubnormals(const FlushSubnormals&) = delete;
  FlushSubnormals& operator=(const FlushSubnormals&) = delete;
};

inline float exp_fixed(float x) {
  if (std::isnan(x)) return x;
  x = std::min(std::max(x, kExpLow), kExpHigh);
  const float n = std::nearbyint(x * kLog2E);
  float r = std::fma(n, -kLn2High, x);
  r = std::fma(n, -kLn2Low, r);
  float p = kExp7;
  for (const float c : {kExp6, kExp5, kExp4, kExp3, kExp2}) p = std::fma(p, r, c);
  p = std::fma(p, r * r, r) + 1.0F;
  // Two factors, because 2^n itself may not be representable.
  const int whole = static_cast<int>(n);
  const int half = whole >> 1;
  const auto power = [](int e) {
    return std::bit_cast<float>(static_cast<std::uint32_t>(e + 127) << 23);
  };
  return p * power(half) * power(whole - half);
}

inline float sigmoid_fixed(float x) { return 1.0F / (1.0F + exp_fixed(-x)); }
inline float silu_fixed(float x) { return x / (1.0F + exp_fixed(-x)); }

/// Adds 16 lane sums in the fixed order.
inline float sum_lanes(float* lanes) {
  for (int width = kLanes / 2; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  }
  return lanes[0];
}

/// Value of x as the right precision mode stores it.
inline float stored(float x, Precision precision) {
  return precision == Precision::bf16 ? to_float(to_bf16(x)) : x;
}

}  // namespace fulgur::kernels
