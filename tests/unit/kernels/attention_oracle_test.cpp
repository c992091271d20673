// The reference's attention against plain float64 formulas: the recurrence for lightning, dense
// causal attention for softmax. Bounds are relative to the sum of magnitudes of the terms.
#include "tests/unit/kernels/fixtures.hpp"

namespace fulgur::kernels::testing {
namespace {

double silu(double x) { return x / (1 + std::exp(-x)); }

/// Rounding of keys and values to the mode's type.
double bound(Precision precision) { return precision == Precision::bf16 ? 0x1p-7 : 2e-6; }

class AttentionOracleTest : public ::testing::TestWithParam<Precision> {};

TEST_P(AttentionOracleTest, LightningIsTheRecurrence) {
  Rng rng(51);
  constexpr std::size_t kHeads = 2, kDim = 16, kTokens = 200;
  const LightningShape shape{kHeads, kDim, {0.9F, 0.004F}};
  const auto qkv = random_floats(rng, kTokens * kHeads * 3 * kDim, 2.0F);
  auto backend = make_reference_backend(GetParam());
  const auto slot = backend->allocate(backend->lightning_slot_bytes(shape));
  std::vector<float> out(kTokens * kHeads * kDim, kPoison);
  const LightningSegment segment{0, kTokens, 0, slot.get()};
  backend->lightning(shape, qkv.data(), {&segment, 1}, out.data());
  for (std::size_t h = 0; h < kHeads; ++h) {
    std::vector<double> state(kDim * kDim, 0), magnitude(kDim * kDim, 0);
    for (std::size_t t = 0; t < kTokens; ++t) {
      const float* x = qkv.data() + (t * kHeads + h) * 3 * kDim;
      for (std::size_t e = 0; e < kDim; ++e) {
        double exact = 0, size = 0;
        for (std::size_t d = 0; d < kDim; ++d) {
          const double term = silu(x[kDim + d]) * silu(x[2 * kDim + e]);
          const double decay = std::exp(-static_cast<double>(shape.decay[h]));
          state[d * kDim + e] = state[d * kDim + e] * decay + term;
          magnitude[d * kDim + e] = magnitude[d * kDim + e] * decay + std::abs(term);
          exact += silu(x[d]) * state[d * kDim + e];
          size += std::abs(silu(x[d])) * magnitude[d * kDim + e];
        }
        EXPECT_NEAR(out[(t * kHeads + h) * kDim + e], exact, bound(GetParam()) * size);
      }
    }
  }
}

void rotate(std::vector<double>& x, std::size_t rotary, double theta, std::size_t position) {
  const std::vector<double> in = x;
  for (std::size_t j = 0; j < rotary / 2; ++j) {
    const auto inverse = static_cast<float>(
        1.0 / std::pow(theta, 2.0 * static_cast<double>(j) / static_cast<double>(rotary)));
    const double angle = static_cast<float>(position) * inverse;
    x[j] = in[j] * std::cos(angle) - in[j + rotary / 2] * std::sin(angle);
    x[j + rotary / 2] = in[j + rotary / 2] * std::cos(angle) + in[j] * std::sin(angle);
  }
}

TEST_P(AttentionOracleTest, SoftmaxIsDenseCausalAttention) {
  Rng rng(52);
  constexpr std::size_t kHeads = 4, kKv = 2, kDim = 32, kRotary = 16, kTokens = 600;
  constexpr std::size_t kRow = (kHeads + 2 * kKv) * kDim;
  const SoftmaxShape shape{kHeads, kKv, kDim, kRotary, 1e7};
  const auto qkv = random_floats(rng, kTokens * kRow);
  auto backend = make_reference_backend(GetParam());
  const auto pool = backend->allocate(10 * backend->softmax_page_bytes(shape));
  const std::vector<std::uint32_t> pages = {3, 1, 4, 0, 5, 9, 2, 6, 8, 7};
  std::vector<float> out(kTokens * kHeads * kDim, kPoison);
  const SoftmaxSegment segment{0, kTokens, 0, pages.data()};
  backend->softmax(shape, qkv.data(), {&segment, 1}, pool.get(), out.data());
  const auto head = [&](std::size_t token, std::size_t index) {
    const float* x = qkv.data() + token * kRow + index * kDim;
    return std::vector<double>(x, x + kDim);
  };
  for (const std::size_t t : {0U, 1U, 63U, 511U, 512U, 599U}) {
    for (std::size_t h = 0; h < kHeads; ++h) {
      std::vector<double> q = head(t, h), sum(kDim, 0), size(kDim, 0);
      rotate(q, kRotary, 1e7, t);
      double total = 0;
      for (std::size_t p = 0; p <= t; ++p) {
        std::vector<double> k = head(p, kHeads + h / 2);
        const std::vector<double> v = head(p, kHeads + kKv + h / 2);
        rotate(k, kRotary, 1e7, p);
        double score = 0;
        for (std::size_t d = 0; d < kDim; ++d) score += q[d] * k[d];
        const double weight = std::exp(score / std::sqrt(static_cast<double>(kDim)));
        total += weight;
        for (std::size_t d = 0; d < kDim; ++d) sum[d] += weight * v[d];
        for (std::size_t d = 0; d < kDim; ++d) size[d] += weight * std::abs(v[d]);
      }
      for (std::size_t d = 0; d < kDim; ++d) {
        // Rotary frequencies are float32 powers: an ulp of angle at position 600 is about 4e-5.
        EXPECT_NEAR(out[(t * kHeads + h) * kDim + d], sum[d] / total,
                    (bound(GetParam()) + 1e-4) * size[d] / total);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Modes, AttentionOracleTest,
                         ::testing::Values(Precision::f32, Precision::bf16),
                         [](const auto& info) { return name_of(info.param); });

}  // namespace
}  // namespace fulgur::kernels::testing
