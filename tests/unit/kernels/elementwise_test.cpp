// Row and elementwise operations and routing: bits equal to the reference, aliasing, ties.
#include "tests/unit/kernels/fixtures.hpp"

namespace fulgur::kernels::testing {
namespace {

constexpr std::size_t kDims[] = {1, 15, 16, 64, 96, 1000, 4099};

TEST(ElementwiseTest, NormsHaveTheReferencesBits) {
  Rng rng(21);
  auto reference = make_reference_backend(Precision::bf16);
  const auto backends = backends_under_test(Precision::bf16);
  for (const std::size_t dim : kDims) {
    constexpr std::size_t kRows = 37;
    const auto x = random_floats(rng, kRows * dim, 3.0F);
    const auto gate = random_floats(rng, kRows * dim, 4.0F);
    const auto weight = random_floats(rng, dim);
    std::vector<float> normed(x.size(), kPoison), gated(x.size(), kPoison);
    reference->rms_norm(x.data(), weight.data(), 1e-5F, kRows, dim, normed.data());
    reference->norm_gate(x.data(), gate.data(), weight.data(), 1e-6F, kRows, dim, gated.data());
    for (const auto& backend : backends) {
      std::vector<float> in_place = x;
      backend->rms_norm(in_place.data(), weight.data(), 1e-5F, kRows, dim, in_place.data());
      EXPECT_TRUE(same_bits(in_place, normed)) << backend->name() << " dim " << dim;
      std::vector<float> out(x.size(), kPoison);
      backend->norm_gate(x.data(), gate.data(), weight.data(), 1e-6F, kRows, dim, out.data());
      EXPECT_TRUE(same_bits(out, gated)) << backend->name() << " dim " << dim;
    }
  }
}

TEST(ElementwiseTest, NormIsCloseToFloat64) {
  Rng rng(22);
  auto reference = make_reference_backend(Precision::f32);
  constexpr std::size_t kDim = 1000;
  const auto x = random_floats(rng, kDim, 3.0F);
  const auto gate = random_floats(rng, kDim, 4.0F);
  const auto weight = random_floats(rng, kDim);
  std::vector<float> out(kDim, kPoison);
  reference->norm_gate(x.data(), gate.data(), weight.data(), 1e-5F, 1, kDim, out.data());
  double square = 0;
  for (const float value : x) square += double{value} * value;
  const double scale = 1 / std::sqrt(square / kDim + 1e-5);
  for (std::size_t i = 0; i < kDim; ++i) {
    const double exact = x[i] * scale * weight[i] / (1 + std::exp(-double{gate[i]}));
    EXPECT_NEAR(out[i], exact, 2e-6 * std::abs(exact));
  }
}

// Any size and alignment; what lies between the rows stays.
TEST(ElementwiseTest, RowsAreCopiedToTheirPlaces) {
  Rng rng(29);
  constexpr std::size_t kRows = 7;
  for (const std::size_t row_bytes : {1U, 6U, 12U, 16U, 96U, 4096U, 12'290U}) {
    for (const std::size_t offset : {0U, 1U, 4U, 16U}) {
      const std::size_t stride = row_bytes + 16 - row_bytes % 16 + 16;
      std::vector<std::byte> from(offset + kRows * stride);
      for (std::byte& byte : from) byte = static_cast<std::byte>(rng.next());
      for (const auto& backend : all_backends(Precision::bf16)) {
        std::vector<std::byte> to(from.size(), std::byte{0x5a}), expected = to;
        std::vector<RowCopy> copies;
        for (std::size_t i = 0; i < kRows; ++i) {
          const std::size_t source = offset + (i * 3 % 5) * stride;  // some rows twice
          copies.push_back({from.data() + source, to.data() + offset + i * stride});
          std::memcpy(expected.data() + offset + i * stride, from.data() + source, row_bytes);
        }
        backend->copy_rows(copies, row_bytes);
        backend->copy_rows({}, row_bytes);
        EXPECT_EQ(to, expected) << backend->name() << " " << row_bytes << " + " << offset;
      }
    }
  }
}

TEST(ElementwiseTest, SumsGathersAndEmbeddingsHaveTheReferencesBits) {
  Rng rng(23);
  auto reference = make_reference_backend(Precision::bf16);
  for (const std::size_t dim : kDims) {
    constexpr std::size_t kRows = 9, kTop = 2;
    const auto x = random_floats(rng, kRows * dim);
    const auto y = random_floats(rng, kRows * dim);
    const auto weights = random_floats(rng, kRows * kTop);
    const std::vector<std::uint32_t> rows = {8, 0, 3, 3, 5};
    const std::vector<std::uint32_t> ids = {2, 0, 6, 6};
    std::vector<std::vector<float>> expected;
    auto backends = backends_under_test(Precision::bf16);
    backends.insert(backends.begin(), make_reference_backend(Precision::bf16));
    for (const auto& backend : backends) {
      std::vector<std::vector<float>> results;
      auto& sum = results.emplace_back(x.size(), kPoison);
      backend->scale_add(3.5F, x.data(), -0.25F, y.data(), x.size(), sum.data());
      for (const Dtype dtype : {Dtype::f32, Dtype::bf16}) {
        std::vector<std::byte> gathered(1 + rows.size() * dim * size_of(dtype));
        backend->gather(x.data(), rows, dim, dtype, gathered.data() + 1);
        std::vector<const std::byte*> outputs;
        for (std::size_t i = 0; i < 4; ++i) {
          outputs.push_back(gathered.data() + 1 + i * dim * size_of(dtype));
        }
        auto& combined = results.emplace_back(2 * dim, kPoison);
        backend->combine(y.data(), 2, dim, kTop, weights.data(), outputs, dtype, 3.5F, 1.25F,
                         combined.data());
      }
      for (const Dtype dtype : {Dtype::f32, Dtype::bf16, Dtype::f16}) {
        Rng same(24);
        const HostWeight table = random_weight(same, 7, dim, dtype);
        auto& embedded = results.emplace_back(ids.size() * dim, kPoison);
        backend->embed(*backend->pack_table(table.matrix()), ids, embedded.data());
        for (std::size_t i = 0; i < embedded.size(); ++i) {
          EXPECT_EQ(embedded[i], table.values[ids[i / dim] * dim + i % dim]);
        }
      }
      if (expected.empty()) expected = results;
      for (std::size_t i = 0; i < results.size(); ++i) {
        EXPECT_TRUE(same_bits(results[i], expected[i])) << backend->name() << " result " << i;
      }
    }
  }
}

struct Routes {
  std::vector<std::uint16_t> experts;
  std::vector<float> weights;
};

Routes route(Backend& backend, const HostWeight& router, const std::vector<float>& y,
             std::uint32_t k) {
  const std::size_t rows = y.size() / router.cols;
  Routes routes{std::vector<std::uint16_t>(rows * k, 0xffff),
                std::vector<float>(rows * k, kPoison)};
  backend.route(y.data(), rows, *backend.pack_router(router.matrix()), k, routes.experts.data(),
                routes.weights.data());
  return routes;
}

TEST(RouteTest, EveryBackendHasTheReferencesBits) {
  Rng rng(25);
  for (const Precision precision : {Precision::f32, Precision::bf16}) {
    auto reference = make_reference_backend(precision);
    for (const Dtype dtype : {Dtype::f32, Dtype::bf16}) {
      for (const std::size_t experts : {3U, 16U, 32U, 70U}) {
        const HostWeight router = random_weight(rng, experts, 100, dtype);
        const auto y = random_floats(rng, 41 * 100);
        const Routes expected = route(*reference, router, y, 3);
        for (const auto& backend : backends_under_test(precision)) {
          const Routes routes = route(*backend, router, y, 3);
          EXPECT_EQ(routes.experts, expected.experts) << backend->name();
          EXPECT_TRUE(same_bits(routes.weights, expected.weights)) << backend->name();
        }
      }
    }
  }
}

TEST(RouteTest, TiesGoToTheLowerExpertAndWeightsSumToOne) {
  HostWeight router{std::vector<std::byte>(8 * 4 * sizeof(float)), {}, Dtype::f32, 8, 4};
  const float row[4] = {1, 1, 1, 1};
  for (const std::size_t expert : {2U, 5U, 6U}) {
    std::memcpy(router.bytes.data() + expert * sizeof row, row, sizeof row);
  }
  const std::vector<float> y = {0.5F, 0.5F, 0.5F, 0.5F};
  for (const auto& backend : all_backends(Precision::bf16)) {
    const Routes routes = route(*backend, router, y, 2);
    EXPECT_EQ(routes.experts, (std::vector<std::uint16_t>{2, 5}));
    EXPECT_EQ(routes.weights, (std::vector<float>{0.5F, 0.5F}));
  }
}

TEST(RouteTest, NotANumberStillNamesDistinctExperts) {
  Rng rng(26);
  const HostWeight router = random_weight(rng, 8, 4, Dtype::f32);
  const std::vector<float> y(4, kPoison);
  for (const auto& backend : all_backends(Precision::bf16)) {
    const Routes routes = route(*backend, router, y, 2);
    EXPECT_LT(routes.experts[0], 8);
    EXPECT_LT(routes.experts[1], 8);
    EXPECT_NE(routes.experts[0], routes.experts[1]);
  }
}

}  // namespace
}  // namespace fulgur::kernels::testing
