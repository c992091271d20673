// Constants of the one exponential every backend uses: exp(x) = 2^n * p(r), n = round(x / ln 2),
// r = x - n ln 2. Polynomial after Cephes (S. L. Moshier), error below 2 ulp. Values only, no
// functions: this header is included by files that are compiled for other instruction sets.
#pragma once

namespace fulgur::kernels {

inline constexpr float kExpLow = -104.0F;  ///< below it the result is zero
inline constexpr float kExpHigh = 89.0F;   ///< above it the result is infinite
inline constexpr float kLog2E = 1.44269504088896341F;
inline constexpr float kLn2High = 0.693359375F;
inline constexpr float kLn2Low = -2.12194440e-4F;
inline constexpr float kExp2 = 5.0000001201e-1F;  ///< coefficient of r^2, and so on
inline constexpr float kExp3 = 1.6666665459e-1F;
inline constexpr float kExp4 = 4.1665795894e-2F;
inline constexpr float kExp5 = 8.3334519073e-3F;
inline constexpr float kExp6 = 1.3981999507e-3F;
inline constexpr float kExp7 = 1.9875691500e-4F;

/// Lanes of every reduction that is not sequential: element i goes to lane i % 16, lanes are then
/// added pairwise, i with i + 8, i + 4, i + 2, i + 1.
inline constexpr int kLanes = 16;

}  // namespace fulgur::kernels
