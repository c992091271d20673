// Matrix products: bits equal to the reference on every instruction set, independent of the other
// rows of a call, and close to float64.
#include "tests/unit/kernels/fixtures.hpp"

namespace fulgur::kernels::testing {
namespace {

struct Shape {
  std::size_t rows, out, in;
};

const Shape kShapes[] = {{1, 64, 64},   {1, 1, 1},      {2, 17, 33},    {3, 65, 7},
                         {5, 130, 257}, {6, 48, 300},   {7, 96, 1024},  {8, 200, 50},
                         {13, 64, 515}, {33, 81, 66},   {130, 70, 129}, {16, 32, 1100},
                         {17, 80, 64},  {49, 96, 1090}, {200, 112, 96}};

std::vector<float> multiply(Backend& backend, const Matrix& matrix, const std::vector<float>& x,
                            std::size_t rows) {
  std::vector<float> out(rows * matrix.rows(), kPoison);
  backend.matmul(x.data(), rows, matrix, out.data());
  return out;
}

class MatmulTest : public ::testing::TestWithParam<Precision> {};

TEST_P(MatmulTest, EveryBackendHasTheReferencesBits) {
  References references(GetParam());
  const auto backends = backends_under_test(GetParam());
  ASSERT_FALSE(backends.empty());
  Rng rng(1);
  for (const Shape& shape : kShapes) {
    for (const Dtype dtype : {Dtype::bf16, Dtype::f16, Dtype::f32}) {
      const HostWeight weight = random_weight(rng, shape.out, shape.in, dtype);
      const HostMatrix part = weight.matrix();
      const auto x = random_floats(rng, shape.rows * shape.in);
      for (const auto& backend : backends) {
        Backend& reference = references.of(*backend);
        const auto expected = multiply(reference, *reference.pack({&part, 1}), x, shape.rows);
        EXPECT_TRUE(
            same_bits(multiply(*backend, *backend->pack({&part, 1}), x, shape.rows), expected))
            << backend->name() << " " << to_string(dtype) << " " << shape.rows << "x" << shape.in
            << "x" << shape.out;
      }
    }
  }
}

TEST_P(MatmulTest, StackedPartsAreOneMatrix) {
  References references(GetParam());
  Rng rng(2);
  const HostWeight a = random_weight(rng, 40, 70, Dtype::bf16);
  const HostWeight b = random_weight(rng, 11, 70, Dtype::f16);
  const HostMatrix parts[] = {a.matrix(), b.matrix()};
  const auto x = random_floats(rng, 4 * 70);
  for (const auto& backend : backends_under_test(GetParam())) {
    Backend& reference = references.of(*backend);
    const auto expected = multiply(reference, *reference.pack(parts), x, 4);
    const auto matrix = backend->pack(parts);
    EXPECT_EQ(matrix->rows(), 51U);
    EXPECT_EQ(matrix->cols(), 70U);
    EXPECT_TRUE(same_bits(multiply(*backend, *matrix, x, 4), expected)) << backend->name();
  }
}

TEST_P(MatmulTest, ARowDoesNotDependOnTheOthers) {
  Rng rng(3);
  const HostWeight weight = random_weight(rng, 190, 600, Dtype::bf16);
  const HostMatrix part = weight.matrix();
  constexpr std::size_t kRows = 150;
  const auto x = random_floats(rng, kRows * 600);
  for (const auto& backend : all_backends(GetParam())) {
    const auto matrix = backend->pack({&part, 1});
    const auto all = multiply(*backend, *matrix, x, kRows);
    for (std::size_t first = 0; first < kRows;) {
      const std::size_t rows = std::min<std::size_t>(kRows - first, 1 + rng.below(14));
      const std::vector<float> some(x.begin() + first * 600, x.begin() + (first + rows) * 600);
      const std::vector<float> expected(all.begin() + first * 190,
                                        all.begin() + (first + rows) * 190);
      ASSERT_TRUE(same_bits(multiply(*backend, *matrix, some, rows), expected)) << backend->name();
      first += rows;
    }
  }
}

TEST_P(MatmulTest, SubnormalsAreZeroOnEveryInstructionSet) {
  References references(GetParam());
  Rng rng(4);
  HostWeight weight = random_weight(rng, 64, 128, Dtype::bf16);
  for (std::size_t i = 0; i < weight.bytes.size(); i += 2) {  // magnitudes 2^-127 to 2^-60
    const auto bits = static_cast<std::uint16_t>((rng.next() & 0x807fU) | (rng.below(68) << 7));
    std::memcpy(weight.bytes.data() + i, &bits, 2);
  }
  const HostMatrix part = weight.matrix();
  const auto x = random_floats(rng, 3 * 128, 1e-18F);
  for (const auto& backend : backends_under_test(GetParam())) {
    Backend& reference = references.of(*backend);
    const auto expected = multiply(reference, *reference.pack({&part, 1}), x, 3);
    EXPECT_TRUE(same_bits(multiply(*backend, *backend->pack({&part, 1}), x, 3), expected))
        << backend->name();
  }
}

TEST_P(MatmulTest, IsCloseToFloat64) {
  Rng rng(5);
  constexpr std::size_t kIn = 1024, kOut = 96, kRows = 4;
  for (const Dtype dtype : {Dtype::bf16, Dtype::f16, Dtype::f32}) {
    const HostWeight weight = random_weight(rng, kOut, kIn, dtype);
    const HostMatrix part = weight.matrix();
    const auto x = random_floats(rng, kRows * kIn);
    const auto backend = make_reference_backend(GetParam());
    const auto out = multiply(*backend, *backend->pack({&part, 1}), x, kRows);
    for (std::size_t i = 0; i < out.size(); ++i) {
      double exact = 0, magnitude = 0;
      for (std::size_t k = 0; k < kIn; ++k) {
        const double term =
            operand(x[i / kOut * kIn + k], GetParam()) * weight.values[i % kOut * kIn + k];
        exact += term;
        magnitude += std::abs(term);
      }
      // Sequential float32 sums err by about sqrt(K) half ulps of the running sum.
      EXPECT_NEAR(out[i], exact, 1e-6 * magnitude);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Modes, MatmulTest, ::testing::Values(Precision::f32, Precision::bf16),
                         [](const auto& info) { return name_of(info.param); });

}  // namespace
}  // namespace fulgur::kernels::testing
