// Softmax attention: bits equal to the reference; any cut of a sequence into calls and any company
// in a call gives the same bits as one call.
#include <numeric>

#include "tests/unit/kernels/fixtures.hpp"

namespace fulgur::kernels::testing {
namespace {

std::size_t row_floats(const SoftmaxShape& shape) {
  return std::size_t{shape.heads + 2 * shape.kv_heads} * shape.head_dim;
}

/// Pages of one sequence in a pool of its own, in shuffled order, poisoned.
struct Cache {
  std::shared_ptr<std::byte> pool;
  std::vector<std::uint32_t> pages;

  Cache(Backend& backend, const SoftmaxShape& shape, std::size_t tokens, Rng& rng) {
    pages.resize(tokens / kPageTokens + 1);
    std::iota(pages.begin(), pages.end(), 0);
    for (std::size_t i = pages.size(); i > 1; --i) std::swap(pages[i - 1], pages[rng.below(i)]);
    const std::size_t bytes = pages.size() * backend.softmax_page_bytes(shape);
    pool = backend.allocate(bytes);
    std::memset(pool.get(), 0xff, bytes);
  }
};

std::vector<float> run(Backend& backend, const SoftmaxShape& shape, const std::vector<float>& qkv,
                       const std::vector<std::uint32_t>& cuts, std::uint64_t seed) {
  Rng rng(seed);
  const std::size_t width = std::size_t{shape.heads} * shape.head_dim;
  const std::size_t tokens = qkv.size() / row_floats(shape);
  Cache cache(backend, shape, tokens, rng);
  std::vector<float> out(tokens * width, kPoison);
  std::uint32_t done = 0;
  for (const std::uint32_t rows : cuts) {
    const SoftmaxSegment segment{0, rows, done, cache.pages.data()};
    backend.softmax(shape, qkv.data() + done * row_floats(shape), {&segment, 1}, cache.pool.get(),
                    out.data() + done * width);
    done += rows;
  }
  return out;
}

class SoftmaxTest : public ::testing::TestWithParam<Precision> {};

TEST_P(SoftmaxTest, EveryBackendHasTheReferencesBits) {
  Rng rng(41);
  auto reference = make_reference_backend(GetParam());
  const auto backends = backends_under_test(GetParam());
  const SoftmaxShape shapes[] = {{4, 2, 64, 32, 1e7},
                                 {3, 1, 96, 96, 1e4},
                                 {8, 1, 128, 64, 1e7},
                                 {2, 2, 128, 0, 1e6},
                                 {6, 1, 40, 20, 1e6}};
  for (const SoftmaxShape& shape : shapes) {
    const auto qkv = random_floats(rng, 150 * row_floats(shape), 1.5F);
    const auto expected = run(*reference, shape, qkv, {150}, 1);
    for (const auto& backend : backends) {
      EXPECT_TRUE(same_bits(run(*backend, shape, qkv, {150}, 2), expected))
          << backend->name() << " head_dim " << shape.head_dim << " heads " << shape.heads;
    }
  }
}

TEST_P(SoftmaxTest, LongSequencesCrossSplits) {
  Rng rng(42);
  const SoftmaxShape shape{2, 1, 64, 64, 1e7};
  const auto qkv = random_floats(rng, 1100 * row_floats(shape));
  const auto expected = run(*make_reference_backend(GetParam()), shape, qkv, {1100}, 1);
  for (const auto& backend : backends_under_test(GetParam())) {
    EXPECT_TRUE(same_bits(run(*backend, shape, qkv, {1100}, 2), expected)) << backend->name();
    EXPECT_TRUE(same_bits(run(*backend, shape, qkv, {500, 24, 1, 1, 500, 10, 64}, 3), expected))
        << backend->name();
  }
}

TEST_P(SoftmaxTest, AnyCutGivesTheSameBits) {
  Rng rng(43);
  const SoftmaxShape shape{6, 2, 64, 16, 1e7};
  const auto qkv = random_floats(rng, 300 * row_floats(shape));
  for (const auto& backend : all_backends(GetParam())) {
    const auto expected = run(*backend, shape, qkv, {300}, 4);
    std::vector<std::uint32_t> cuts;
    for (std::uint32_t left = 300; left > 0; left -= cuts.back()) {
      cuts.push_back(static_cast<std::uint32_t>(
          std::min<std::uint64_t>(left, 1 + rng.below(rng.below(2) == 0 ? 3 : 80))));
    }
    EXPECT_TRUE(same_bits(run(*backend, shape, qkv, cuts, 5), expected)) << backend->name();
  }
}

TEST_P(SoftmaxTest, CompanyInACallDoesNotMatter) {
  Rng rng(44);
  const SoftmaxShape shape{4, 1, 64, 32, 1e7};
  const std::size_t width = 4 * 64;
  const std::uint32_t lengths[] = {70, 600, 1, 33};
  for (const auto& backend : backends_under_test(GetParam())) {
    Rng pages_rng(45);
    std::vector<std::uint32_t> all_pages(20);
    std::iota(all_pages.begin(), all_pages.end(), 0);
    for (std::size_t i = 20; i > 1; --i) {
      std::swap(all_pages[i - 1], all_pages[pages_rng.below(i)]);
    }
    const auto pool = backend->allocate(20 * backend->softmax_page_bytes(shape));
    std::vector<SoftmaxSegment> segments;
    std::vector<float> qkv;
    std::uint32_t row = 0;
    const std::uint32_t* pages = all_pages.data();
    for (const std::uint32_t length : lengths) {
      Rng sequence(length);
      const auto part = random_floats(sequence, length * row_floats(shape));
      qkv.insert(qkv.end(), part.begin(), part.end());
      segments.push_back({row, length, 0, pages});
      row += length;
      pages += length / kPageTokens + 1;
    }
    std::vector<float> out(row * width, kPoison);
    backend->softmax(shape, qkv.data(), segments, pool.get(), out.data());
    for (const SoftmaxSegment& segment : segments) {
      Rng sequence(segment.rows);
      const auto part = random_floats(sequence, segment.rows * row_floats(shape));
      const std::vector<float> got(out.begin() + segment.row * width,
                                   out.begin() + (segment.row + segment.rows) * width);
      EXPECT_TRUE(same_bits(got, run(*backend, shape, part, {segment.rows}, 6)))
          << backend->name() << " length " << segment.rows;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Modes, SoftmaxTest, ::testing::Values(Precision::f32, Precision::bf16),
                         [](const auto& info) { return name_of(info.param); });

}  // namespace
}  // namespace fulgur::kernels::testing
