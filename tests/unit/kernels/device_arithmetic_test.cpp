// Corners of a device's own arithmetic that the emulation cannot show: results at the edge of the
// subnormal numbers, the exponential over its whole range, division and square root. By the same
// operations as everything else, against the reference.
#include "tests/unit/kernels/fixtures.hpp"

namespace fulgur::kernels::testing {
namespace {

/// Floats whose exponents lie in [low, high), all mantissas.
std::vector<float> floats_between(Rng& rng, std::size_t count, std::uint32_t low,
                                  std::uint32_t high) {
  std::vector<float> values(count);
  for (float& value : values) {
    const auto exponent = low + static_cast<std::uint32_t>(rng.below(high - low));
    value = std::bit_cast<float>((static_cast<std::uint32_t>(rng.next()) & 0x807fffffU) |
                                 (exponent << 23));
  }
  return values;
}

void expect_sums_equal(const std::vector<float>& x, const std::vector<float>& y, float alpha,
                       float beta) {
  auto reference = make_reference_backend(Precision::f32);
  std::vector<float> expected(x.size(), kPoison);
  reference->scale_add(alpha, x.data(), beta, y.data(), x.size(), expected.data());
  for (const auto& backend : backends_under_test(Precision::f32)) {
    std::vector<float> out(x.size(), kPoison);
    backend->scale_add(alpha, x.data(), beta, y.data(), x.size(), out.data());
    EXPECT_TRUE(same_bits(out, expected)) << backend->name();
  }
}

TEST(DeviceArithmetic, SumsOfAllMagnitudes) {
  Rng rng(91);
  expect_sums_equal(floats_between(rng, 200'000, 2, 200), floats_between(rng, 200'000, 2, 200), 1,
                    1);
}

TEST(DeviceArithmetic, SubnormalOperandsAreZero) {
  Rng rng(92);
  expect_sums_equal(floats_between(rng, 200'000, 0, 2), floats_between(rng, 200'000, 0, 3), 1, 1);
}

// A product just below the least normal number that rounds up to it: x86 calls it normal, a device
// that looks before rounding makes it zero. Nothing else may differ.
TEST(DeviceArithmetic, ProductsAtTheEdgeOfTheSubnormals) {
  Rng rng(93);
  expect_sums_equal(floats_between(rng, 200'000, 60, 68), floats_between(rng, 200'000, 1, 2),
                    0x1p-63F, 0);
  std::vector<float> edge(4096);
  for (std::size_t i = 0; i < edge.size(); ++i) {  // down from 2, in steps of one ulp
    edge[i] = std::bit_cast<float>(0x40000000U - static_cast<std::uint32_t>(i) - 1);
  }
  expect_sums_equal(edge, std::vector<float>(edge.size(), 0.0F), 0x1.000002p-127F, 0);
  expect_sums_equal(edge, std::vector<float>(edge.size(), 0.0F), 0x1.000002p-64F * 0x1p-63F, 0);
}

TEST(DeviceArithmetic, NormAndGateOverTheWholeRange) {
  Rng rng(94);
  auto reference = make_reference_backend(Precision::f32);
  constexpr std::size_t kRows = 64, kDim = 1024;
  const auto x = floats_between(rng, kRows * kDim, 100, 140);
  auto gate = floats_between(rng, kRows * kDim, 100, 134);
  for (std::size_t i = 0; i < 4096; ++i) {  // -110 .. 110, past both ends of the exponential
    gate[i] = -110.0F + static_cast<float>(i) * (220.0F / 4096);
  }
  const auto weight = random_floats(rng, kDim);
  std::vector<float> expected(x.size(), kPoison);
  reference->norm_gate(x.data(), gate.data(), weight.data(), 1e-6F, kRows, kDim, expected.data());
  for (const auto& backend : backends_under_test(Precision::f32)) {
    std::vector<float> out(x.size(), kPoison);
    backend->norm_gate(x.data(), gate.data(), weight.data(), 1e-6F, kRows, kDim, out.data());
    EXPECT_TRUE(same_bits(out, expected)) << backend->name();
  }
}

}  // namespace
}  // namespace fulgur::kernels::testing
