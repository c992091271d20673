// Grouped SwiGLU: bits equal to the reference, independent of grouping, close to float64.
#include "tests/unit/kernels/fixtures.hpp"

namespace fulgur::kernels::testing {
namespace {

constexpr std::size_t kExperts = 4;

struct Weights {
  HostWeight gate, up, down;
};

/// Experts of one shape, and activations in both wire types at an odd address.
struct Case {
  std::size_t hidden, inner, rows;
  std::vector<Weights> experts;
  std::vector<float> x;
  std::vector<std::byte> x_f32, x_bf16;

  Case(Rng& rng, std::size_t hidden_size, std::size_t inner_size, std::size_t row_count,
       Dtype dtype)
      : hidden(hidden_size), inner(inner_size), rows(row_count) {
    for (std::size_t e = 0; e < kExperts; ++e) {
      experts.push_back({random_weight(rng, inner, hidden, dtype),
                         random_weight(rng, inner, hidden, dtype),
                         random_weight(rng, hidden, inner, dtype)});
    }
    x = random_floats(rng, rows * hidden);
    for (float& value : x) value = to_float(to_bf16(value));
    x_f32.resize(1 + x.size() * 4);
    x_bf16.resize(1 + x.size() * 2);
    for (std::size_t i = 0; i < x.size(); ++i) {
      const Bf16 rounded = to_bf16(x[i]);
      std::memcpy(x_f32.data() + 1 + 4 * i, &x[i], 4);
      std::memcpy(x_bf16.data() + 1 + 2 * i, &rounded, 2);
    }
  }

  const std::byte* input(Dtype dtype) const {
    return (dtype == Dtype::f32 ? x_f32 : x_bf16).data() + 1;
  }
};

struct Routes {
  std::vector<std::vector<std::uint32_t>> rows;  // of each expert
};

Routes random_routes(Rng& rng, std::size_t rows) {
  Routes routes{std::vector<std::vector<std::uint32_t>>(kExperts)};
  for (std::uint32_t row = 0; row < rows; ++row) {
    const std::size_t first = rng.below(kExperts);
    routes.rows[first].push_back(row);
    routes.rows[(first + 1 + rng.below(kExperts - 1)) % kExperts].push_back(row);
  }
  return routes;
}

std::vector<float> run(Backend& backend, const Case& c, const Routes& routes, Dtype x_dtype,
                       Dtype out_dtype) {
  std::vector<std::unique_ptr<Expert>> packed;
  std::vector<ExpertGroup> groups;
  std::uint32_t output = 0;
  for (std::size_t e = 0; e < kExperts; ++e) {
    const Weights& w = c.experts[e];
    packed.push_back(backend.pack_expert(w.gate.matrix(), w.up.matrix(), w.down.matrix()));
    groups.push_back({packed.back().get(), routes.rows[e], output});
    output += static_cast<std::uint32_t>(routes.rows[e].size());
  }
  std::vector<std::byte> raw(1 + output * c.hidden * size_of(out_dtype), std::byte{0xff});
  backend.experts(c.input(x_dtype), x_dtype, c.hidden, groups, raw.data() + 1, out_dtype);
  std::vector<float> out(output * c.hidden);
  for (std::size_t i = 0; i < out.size(); ++i) {
    if (out_dtype == Dtype::f32) {
      std::memcpy(&out[i], raw.data() + 1 + 4 * i, 4);
    } else {
      Bf16 bits;
      std::memcpy(&bits, raw.data() + 1 + 2 * i, 2);
      out[i] = to_float(bits);
    }
  }
  return out;
}

class ExpertsTest : public ::testing::TestWithParam<Precision> {};

TEST_P(ExpertsTest, EveryBackendHasTheReferencesBits) {
  Rng rng(11);
  References references(GetParam());
  const auto backends = backends_under_test(GetParam());
  const struct {
    std::size_t hidden, inner, rows;
    Dtype dtype;
  } cases[] = {{64, 96, 1, Dtype::bf16},   {33, 47, 5, Dtype::bf16}, {130, 31, 40, Dtype::bf16},
               {64, 64, 300, Dtype::bf16}, {48, 65, 9, Dtype::f16},  {40, 33, 9, Dtype::f32}};
  for (const auto& shape : cases) {
    const Case c(rng, shape.hidden, shape.inner, shape.rows, shape.dtype);
    const Routes routes = random_routes(rng, c.rows);
    for (const Dtype x_dtype : {Dtype::f32, Dtype::bf16}) {
      for (const Dtype out_dtype : {Dtype::f32, Dtype::bf16}) {
        for (const auto& backend : backends) {
          const auto expected = run(references.of(*backend), c, routes, x_dtype, out_dtype);
          EXPECT_TRUE(same_bits(run(*backend, c, routes, x_dtype, out_dtype), expected))
              << backend->name() << " hidden " << c.hidden << " inner " << c.inner;
        }
      }
    }
  }
}

TEST_P(ExpertsTest, ARowDoesNotDependOnItsGroup) {
  Rng rng(12);
  const Case c(rng, 96, 80, 11, Dtype::bf16);
  const Routes routes = random_routes(rng, c.rows);
  for (const auto& backend : backends_under_test(GetParam())) {
    const auto all = run(*backend, c, routes, Dtype::bf16, Dtype::f32);
    std::size_t output = 0;
    for (std::size_t e = 0; e < kExperts; ++e) {
      for (const std::uint32_t row : routes.rows[e]) {
        Routes single{std::vector<std::vector<std::uint32_t>>(kExperts)};
        single.rows[e].push_back(row);
        const std::vector<float> expected(all.begin() + output * c.hidden,
                                          all.begin() + (output + 1) * c.hidden);
        ASSERT_TRUE(same_bits(run(*backend, c, single, Dtype::bf16, Dtype::f32), expected))
            << backend->name();
        ++output;
      }
    }
  }
}

TEST_P(ExpertsTest, IsCloseToFloat64) {
  Rng rng(13);
  const Case c(rng, 128, 192, 3, Dtype::bf16);
  Routes routes{std::vector<std::vector<std::uint32_t>>(kExperts)};
  routes.rows[2] = {1};
  auto backend = make_reference_backend(GetParam());
  const auto out = run(*backend, c, routes, Dtype::f32, Dtype::f32);
  const Weights& w = c.experts[2];
  std::vector<double> inner(c.inner);
  for (std::size_t f = 0; f < c.inner; ++f) {
    double gate = 0, up = 0;
    for (std::size_t k = 0; k < c.hidden; ++k) {
      gate += c.x[c.hidden + k] * w.gate.values[f * c.hidden + k];
      up += c.x[c.hidden + k] * w.up.values[f * c.hidden + k];
    }
    inner[f] = gate / (1 + std::exp(-gate)) * up;
  }
  // The bf16 mode rounds the inner values: half a bf16 ulp each, 2^-9.
  const double relative = GetParam() == Precision::bf16 ? 0x1p-9 : 1e-6;
  for (std::size_t d = 0; d < c.hidden; ++d) {
    double exact = 0, magnitude = 0;
    for (std::size_t f = 0; f < c.inner; ++f) {
      exact += inner[f] * w.down.values[d * c.inner + f];
      magnitude += std::abs(inner[f] * w.down.values[d * c.inner + f]);
    }
    EXPECT_NEAR(out[d], exact, relative * magnitude);
  }
}

INSTANTIATE_TEST_SUITE_P(Modes, ExpertsTest, ::testing::Values(Precision::f32, Precision::bf16),
                         [](const auto& info) { return name_of(info.param); });

}  // namespace
}  // namespace fulgur::kernels::testing
