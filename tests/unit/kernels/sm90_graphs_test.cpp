// Attention blocks of decode steps replayed as CUDA graphs against the same launches one by one:
// equal bits of everything they write, step after step, whatever changes between steps. On a Hopper
// GPU; skipped elsewhere. Which launches become graphs is tested without one
// (graph_cache_test.cpp).
#include <algorithm>
#include <atomic>
#include <chrono>
#include <numeric>
#include <thread>

#include "tests/unit/kernels/fixtures.hpp"

namespace fulgur::kernels::testing {
namespace {

constexpr ModelShape kShape{.hidden = 512,
                            .heads = 16,
                            .kv_heads = 2,
                            .head_dim = 128,
                            .experts = 8,
                            .experts_per_token = 2,
                            .inner = 384};
constexpr std::size_t kWidth = std::size_t{kShape.heads} * 128;
constexpr std::size_t kAllWidth = (std::size_t{kShape.heads} + 2 * kShape.kv_heads) * 128;
constexpr std::uint32_t kSequences = 12;
constexpr std::uint32_t kPages = 600;

struct HostWeights {
  HostWeight qkv, gate, out, softmax_qkv;
  std::vector<float> norm_in, norm_post, norm;
};

/// Rows of a sequence at this step.
struct Part {
  std::uint32_t sequence, rows;
};

/// One backend with the weights of a lightning and a softmax layer and the states of all sequences.
class Side {
 public:
  Side(std::unique_ptr<Backend> backend, const HostWeights& weights, bool postnorm)
      : backend_(std::move(backend)), postnorm_(postnorm) {
    qkv_ = pack(weights.qkv), gate_ = pack(weights.gate), out_ = pack(weights.out);
    softmax_qkv_ = pack(weights.softmax_qkv);
    norm_in_ = sent(weights.norm_in), norm_post_ = sent(weights.norm_post);
    norm_ = sent(weights.norm);
    lightning_ = {kShape.heads, 128, {}};
    for (std::uint32_t h = 0; h < kShape.heads; ++h) {
      lightning_.decay.push_back(std::exp2(-8.0F * static_cast<float>(h + 1) / 16));
    }
    slot_bytes_ = backend_->lightning_slot_bytes(lightning_);
    slots_ = backend_->allocate(kSequences * slot_bytes_);
    pool_bytes_ = kPages * backend_->softmax_page_bytes(softmax_);
    pool_ = backend_->allocate(pool_bytes_);
  }

  Backend& backend() { return *backend_; }
  /// h and y after a lightning and after a softmax block of these rows.
  std::vector<float> step(const std::vector<Part>& parts,
                          const std::vector<std::uint64_t>& positions,
                          const std::vector<std::vector<std::uint32_t>>& pages,
                          const std::vector<float>& rows) {
    std::vector<LightningSegment> lightning;
    std::vector<SoftmaxSegment> softmax;
    std::uint32_t row = 0;
    for (const Part& part : parts) {
      const std::uint64_t position = positions[part.sequence];
      lightning.push_back({row, part.rows, position, slots_.get() + part.sequence * slot_bytes_});
      softmax.push_back({row, part.rows, position, pages[part.sequence].data()});
      row += part.rows;
    }
    std::vector<float> results;
    const std::size_t count = rows.size();
    float* h = h_.reserve(*backend_, count);
    float* y = y_.reserve(*backend_, count);
    const AttentionFrame frame{floats(norm_in_), floats(norm_post_), 1e-5F, 3.5F, 1.0F,
                               postnorm_,        kShape.hidden};
    write(h, rows);
    backend_->lightning_block(frame, lightning_, {*qkv_, *gate_, floats(norm_), 1e-6F, *out_}, row,
                              lightning, scratch_, h, y);
    read(h, y, count, results);
    write(h, rows);
    backend_->softmax_block(frame, softmax_, {*softmax_qkv_, *out_}, row, softmax, pool_.get(),
                            scratch_, h, y);
    read(h, y, count, results);
    return results;
  }
  std::vector<std::byte> states() {
    std::vector<std::byte> all(kSequences * slot_bytes_ + pool_bytes_);
    backend_->download(all.data(), slots_.get(), kSequences * slot_bytes_);
    backend_->download(all.data() + kSequences * slot_bytes_, pool_.get(), pool_bytes_);
    return all;
  }
  /// Other arrays from now on; the old ones stay, so that the addresses are others, too.
  void move_rows() {
    old_.push_back(std::move(h_));
    old_.push_back(std::move(y_));
    h_ = {}, y_ = {};
  }

 private:
  std::unique_ptr<Matrix> pack(const HostWeight& weight) {
    const HostMatrix part = weight.matrix();
    return backend_->pack({&part, 1});
  }
  std::shared_ptr<std::byte> sent(const std::vector<float>& values) {
    auto memory = backend_->allocate(values.size() * sizeof(float));
    backend_->upload(memory.get(), values.data(), values.size() * sizeof(float));
    return memory;
  }
  static const float* floats(const std::shared_ptr<std::byte>& memory) {
    return reinterpret_cast<const float*>(memory.get());
  }
  void write(float* to, const std::vector<float>& rows) {
    backend_->upload(reinterpret_cast<std::byte*>(to), rows.data(), rows.size() * sizeof(float));
  }
  void read(const float* h, const float* y, std::size_t count, std::vector<float>& results) {
    for (const float* from : {h, y}) {
      if (from == h && postnorm_) continue;  // undefined then
      results.resize(results.size() + count, kPoison);
      backend_->download(reinterpret_cast<std::byte*>(results.data() + results.size() - count),
                         reinterpret_cast<const std::byte*>(from), count * sizeof(float));
    }
  }

  std::unique_ptr<Backend> backend_;
  const bool postnorm_;
  std::unique_ptr<Matrix> qkv_, gate_, out_, softmax_qkv_;
  std::shared_ptr<std::byte> norm_in_, norm_post_, norm_, slots_, pool_;
  LightningShape lightning_;
  const SoftmaxShape softmax_{kShape.heads, kShape.kv_heads, 128, 64, 1e7};
  std::size_t slot_bytes_ = 0, pool_bytes_ = 0;
  AttentionScratch scratch_;
  Buffer<float> h_, y_;
  std::vector<Buffer<float>> old_;
};

/// Steps on two sides, one of which makes graphs.
class Sm90GraphsTest : public ::testing::TestWithParam<bool> {
 protected:
  bool start(std::size_t graphs_max, bool strict = false) {
    auto with = make_cuda_backend(
        {.family = CudaFamily::sm90, .shape = kShape, .graphs_max = graphs_max, .strict = strict});
    auto without =
        make_cuda_backend({.family = CudaFamily::sm90, .shape = kShape, .graphs_max = 0});
    if (!with.is_ok() || !without.is_ok()) return false;
    const std::size_t hidden = kShape.hidden;
    const HostWeights weights{random_weight(rng_, 3 * kWidth, hidden, Dtype::bf16),
                              random_weight(rng_, kWidth, hidden, Dtype::bf16),
                              random_weight(rng_, hidden, kWidth, Dtype::bf16),
                              random_weight(rng_, kAllWidth, hidden, Dtype::bf16),
                              random_floats(rng_, hidden),
                              random_floats(rng_, hidden),
                              random_floats(rng_, kWidth)};
    graphs_ = std::make_unique<Side>(std::move(with).value(), weights, GetParam());
    plain_ = std::make_unique<Side>(std::move(without).value(), weights, GetParam());
    free_.resize(kPages);
    std::iota(free_.begin(), free_.end(), 0U);
    for (std::size_t i = free_.size(); i-- > 1;) std::swap(free_[i], free_[rng_.below(i + 1)]);
    return true;
  }

  /// The same rows on both sides; equal results.
  void step(const std::vector<Part>& parts) {
    std::size_t rows = 0;
    for (const Part& part : parts) {
      rows += part.rows;
      const std::uint64_t end = positions_[part.sequence] + part.rows;
      while (pages_[part.sequence].size() * kPageTokens < end) {
        ASSERT_FALSE(free_.empty());
        pages_[part.sequence].push_back(free_.back());
        free_.pop_back();
      }
    }
    const auto x = random_floats(rng_, rows * kShape.hidden);
    const auto expected = plain_->step(parts, positions_, pages_, x);
    ASSERT_TRUE(same_bits(graphs_->step(parts, positions_, pages_, x), expected))
        << rows << " rows, first at position " << positions_[parts[0].sequence];
    for (const Part& part : parts) positions_[part.sequence] += part.rows;
  }
  /// A token of each of `count` sequences, which begin anywhere and come in any order.
  std::vector<Part> decode(std::uint32_t count) {
    std::vector<Part> parts;
    for (std::uint32_t s = 0; s < kSequences; ++s) parts.push_back({s, 1});
    for (std::size_t i = parts.size(); i-- > 1;) std::swap(parts[i], parts[rng_.below(i + 1)]);
    parts.resize(count);
    return parts;
  }
  /// Prompts of these lengths for the first sequences, at once.
  void prefill(const std::vector<std::uint32_t>& lengths) {
    std::vector<Part> parts;
    for (std::uint32_t s = 0; s < lengths.size(); ++s) parts.push_back({s, lengths[s]});
    step(parts);
  }
  GraphCounts counts() { return graphs_->backend().graph_counts(); }
  void expect_same_states() {
    EXPECT_EQ(plain_->backend().graph_counts().captured, 0U);
    EXPECT_TRUE(graphs_->states() == plain_->states());
  }

  Rng rng_{2029};
  std::unique_ptr<Side> graphs_, plain_;
  std::vector<std::uint32_t> free_;
  std::vector<std::uint64_t> positions_ = std::vector<std::uint64_t>(kSequences);
  std::vector<std::vector<std::uint32_t>> pages_ =
      std::vector<std::vector<std::uint32_t>>(kSequences);
};
INSTANTIATE_TEST_SUITE_P(Norms, Sm90GraphsTest, ::testing::Bool());

TEST_P(Sm90GraphsTest, PositionsAndCompositionChange) {
  if (!start(kGraphsMax)) GTEST_SKIP() << "no Hopper GPU";
  for (int i = 0; i < 90; ++i) {
    constexpr std::uint32_t kCounts[] = {1, 3, 9, 12};
    ASSERT_NO_FATAL_FAILURE(step(decode(kCounts[rng_.below(4)])));
  }
  EXPECT_GE(counts().captured, 8U);  // four sizes of two blocks
  EXPECT_GE(counts().replayed, 80U);
  EXPECT_EQ(counts().refused, 0U);
  EXPECT_EQ(counts().dropped, 0U);
  RecordProperty("graph_bytes", std::to_string(counts().bytes));
  expect_same_states();
}

/// Pages of 64, splits of 512, buckets that differ from splits beyond 4096; the greatest length of
/// a step comes and goes with its sequence.
TEST_P(Sm90GraphsTest, ContextsGrowOverEveryBoundary) {
  if (!start(kGraphsMax)) GTEST_SKIP() << "no Hopper GPU";
  ASSERT_NO_FATAL_FAILURE(prefill({40, 500, 1010, 4080, 5100, 3}));
  for (int i = 0; i < 60; ++i) {
    ASSERT_NO_FATAL_FAILURE(step({{0, 1}, {1, 1}, {5, 1}}));  // over 64 and 512
    ASSERT_NO_FATAL_FAILURE(step({{2, 1}, {0, 1}}));          // over 1024
    ASSERT_NO_FATAL_FAILURE(step({{4, 1}, {3, 1}}));          // over 4096 and 5120
    if (i % 3 == 0) {
      ASSERT_NO_FATAL_FAILURE(step({{3, 1}}));
    }
  }
  EXPECT_GE(counts().captured, 6U);
  EXPECT_GE(counts().replayed, 300U);
  EXPECT_EQ(counts().refused, 0U);
  expect_same_states();
}

TEST_P(Sm90GraphsTest, GraphsAreDroppedAndMadeAgain) {
  if (!start(3)) GTEST_SKIP() << "no Hopper GPU";
  for (int round = 0; round < 2; ++round) {
    for (const std::uint32_t count : {2U, 5U, 7U, 12U}) {
      for (int i = 0; i < 20; ++i) ASSERT_NO_FATAL_FAILURE(step(decode(count)));
    }
  }
  EXPECT_GE(counts().dropped, 6U);
  EXPECT_EQ(counts().refused, 0U);
  expect_same_states();
}

/// What scratch, rows and their lists need grows and moves between replays.
TEST_P(Sm90GraphsTest, MemoryMoves) {
  if (!start(kGraphsMax)) GTEST_SKIP() << "no Hopper GPU";
  for (int round = 0; round < 4; ++round) {
    for (int i = 0; i < 8; ++i) ASSERT_NO_FATAL_FAILURE(step(decode(4)));
    const std::uint64_t replayed = counts().replayed;
    ASSERT_NO_FATAL_FAILURE(step({{0, 1}, {1, 300U << round}, {2, 1}, {3, 70}}));  // no decode step
    EXPECT_EQ(counts().replayed, replayed);
    graphs_->move_rows();
  }
  EXPECT_GE(counts().captured, 8U);
  EXPECT_EQ(counts().refused, 0U);
  expect_same_states();
}

/// Another thread takes and gives back memory of the device meanwhile, which waits for all streams.
TEST_P(Sm90GraphsTest, MemoryIsGivenBackMeanwhile) {
  if (!start(kGraphsMax)) GTEST_SKIP() << "no Hopper GPU";
  auto other = make_cuda_backend({.family = CudaFamily::sm90, .shape = kShape}).value();
  std::atomic<bool> over{false};
  std::thread neighbour([&] {
    while (!over.load()) {
      (void)other->allocate(std::size_t{100} << 20);
      std::this_thread::sleep_for(std::chrono::microseconds(200));
    }
  });
  for (int i = 0; i < 150 && !HasFatalFailure(); ++i) step(decode(1 + i % 12));
  over.store(true);
  neighbour.join();
  EXPECT_GE(counts().captured, 1U);
  expect_same_states();
}

TEST_P(Sm90GraphsTest, ARehearsalForgetsItsGraphsAndServingAsksForNothing) {
  if (!start(kGraphsMax)) GTEST_SKIP() << "no Hopper GPU";
  Backend& backend = graphs_->backend();
  backend.rehearse([&] {
    for (int i = 0; i < 10 && !HasFatalFailure(); ++i) step(decode(12));
  });
  const std::uint64_t captured = counts().captured;
  EXPECT_GE(captured, 2U);
  const std::uint64_t allocations = backend.allocations_total();
  for (int i = 0; i < 40; ++i) ASSERT_NO_FATAL_FAILURE(step(decode(i < 20 ? 12 : 4)));
  EXPECT_EQ(backend.allocations_total(), allocations);
  EXPECT_EQ(counts().captured, captured + 4);
  expect_same_states();
}

/// Every array of theirs is an allocation of its own, somewhere else each time.
TEST_P(Sm90GraphsTest, StrictBackendsMakeNone) {
  if (!start(kGraphsMax, true)) GTEST_SKIP() << "no Hopper GPU";
  for (int i = 0; i < 8; ++i) ASSERT_NO_FATAL_FAILURE(step(decode(3)));
  EXPECT_EQ(counts().captured, 0U);
  expect_same_states();
}

}  // namespace
}  // namespace fulgur::kernels::testing
