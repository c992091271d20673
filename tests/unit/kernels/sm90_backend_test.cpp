// The backend with the fast kernels on a Hopper GPU: every operation close to the reference, and
// each row the same whatever its company and however a sequence is cut. Skipped elsewhere.
// Tolerances as in cuda_reference_test.cpp: bf16 operands and results, other orders of sums.
#include <numeric>

#include "bench/fp8/fp8_backend.hpp"
#include "kernels/include/fulgur/kernels/synthetic.hpp"
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

/// |a - b| / |b|; NaN when anything was left unwritten.
double distance(const std::vector<float>& a, const std::vector<float>& b) {
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < b.size(); ++i) {
    difference += std::pow(static_cast<double>(a[i]) - b[i], 2);
    norm += std::pow(static_cast<double>(b[i]), 2);
  }
  return std::sqrt(difference / norm);
}

class Sm90Test : public ::testing::Test {
 protected:
  void SetUp() override {
    auto made = make_cuda_backend({.family = CudaFamily::sm90, .shape = kShape, .strict = true});
    if (!made.is_ok()) GTEST_SKIP() << made.status().message();
    fast_ = std::make_unique<HostedBackend>(std::move(made).value(), "sm90",
                                            [](const std::function<void()>& call) { call(); });
    reference_ = make_reference_backend(Precision::bf16);
  }

  std::unique_ptr<Backend> fast_;
  std::unique_ptr<Backend> reference_;
  Rng rng_{2027};
};

TEST_F(Sm90Test, ProductsOfAnyWeightTypeAndAnyNumberOfRows) {
  const HostWeight a = random_weight(rng_, 300, kShape.hidden, Dtype::bf16);
  const HostWeight b = random_weight(rng_, 77, kShape.hidden, Dtype::f32);
  const HostMatrix parts[] = {a.matrix(), b.matrix()};
  const auto fast = fast_->pack(parts);
  const auto slow = reference_->pack(parts);
  constexpr std::size_t kRows = 301, kOut = 377;
  const auto x = random_floats(rng_, kRows * kShape.hidden);
  std::vector<float> expected(kRows * kOut), all(kRows * kOut, kPoison);
  reference_->matmul(x.data(), kRows, *slow, expected.data());
  fast_->matmul(x.data(), kRows, *fast, all.data());
  EXPECT_LT(distance(all, expected), 2e-3);  // f32 weights are rounded
  for (const std::size_t rows : {1U, 9U, 100U, 200U}) {
    std::vector<float> some(rows * kOut, kPoison);
    fast_->matmul(x.data(), rows, *fast, some.data());
    EXPECT_TRUE(
        same_bits(some, {all.begin(), all.begin() + static_cast<std::ptrdiff_t>(rows * kOut)}));
  }
}

TEST_F(Sm90Test, RowsAndRoutes) {
  constexpr std::size_t kRows = 37;
  const std::size_t dim = kShape.hidden;
  const auto x = random_floats(rng_, kRows * dim), gate = random_floats(rng_, kRows * dim, 3.0F);
  const auto weight = random_floats(rng_, dim);
  std::vector<float> expected(x.size()), out(x.size(), kPoison);
  reference_->rms_norm(x.data(), weight.data(), 1e-5F, kRows, dim, expected.data());
  fast_->rms_norm(x.data(), weight.data(), 1e-5F, kRows, dim, out.data());
  EXPECT_LT(distance(out, expected), 1e-6);
  reference_->norm_gate(x.data(), gate.data(), weight.data(), 1e-6F, kRows, dim, expected.data());
  fast_->norm_gate(x.data(), gate.data(), weight.data(), 1e-6F, kRows, dim, out.data());
  EXPECT_LT(distance(out, expected), 1e-6);
  const HostWeight router = random_weight(rng_, kShape.experts, dim, Dtype::bf16);
  std::vector<std::uint16_t> ids(kRows * 2), want_ids(kRows * 2);
  std::vector<float> weights(kRows * 2, kPoison), want_weights(kRows * 2);
  reference_->route(x.data(), kRows, *reference_->pack_router(router.matrix()), 2, want_ids.data(),
                    want_weights.data());
  fast_->route(x.data(), kRows, *fast_->pack_router(router.matrix()), 2, ids.data(),
               weights.data());
  EXPECT_EQ(ids, want_ids);
  EXPECT_LT(distance(weights, want_weights), 1e-5);
}

TEST_F(Sm90Test, ExpertsOfBothWireTypes) {
  constexpr std::size_t kTokens = 41;
  const std::size_t hidden = kShape.hidden;
  std::vector<std::unique_ptr<Expert>> fast, slow;
  for (std::uint32_t e = 0; e < kShape.experts; ++e) {
    const HostWeight gate = random_weight(rng_, kShape.inner, hidden, Dtype::bf16);
    const HostWeight up = random_weight(rng_, kShape.inner, hidden, Dtype::bf16);
    const HostWeight down = random_weight(rng_, hidden, kShape.inner, Dtype::bf16);
    fast.push_back(fast_->pack_expert(gate.matrix(), up.matrix(), down.matrix()));
    slow.push_back(reference_->pack_expert(gate.matrix(), up.matrix(), down.matrix()));
  }
  std::vector<std::vector<std::uint32_t>> rows(kShape.experts);
  for (std::uint32_t t = 0; t < kTokens; ++t) {
    const std::size_t first = t == 0 ? 0 : rng_.below(kShape.experts);
    rows[first].push_back(t);
    rows[(first + 3) % kShape.experts].push_back(t);
  }
  const auto groups = [&](const std::vector<std::unique_ptr<Expert>>& experts) {
    std::vector<ExpertGroup> list;
    std::uint32_t output = 0;
    for (std::uint32_t e = 0; e < kShape.experts; ++e) {
      list.push_back({experts[e].get(), rows[e], output});
      output += static_cast<std::uint32_t>(rows[e].size());
    }
    return list;
  };
  auto x = random_floats(rng_, kTokens * hidden);
  for (float& value : x) value = to_float(to_bf16(value));
  const auto* bytes = reinterpret_cast<const std::byte*>(x.data());
  std::vector<float> expected(2 * kTokens * hidden), out(expected.size(), kPoison);
  reference_->experts(bytes, Dtype::f32, hidden, groups(slow),
                      reinterpret_cast<std::byte*>(expected.data()), Dtype::f32);
  fast_->experts(bytes, Dtype::f32, hidden, groups(fast), reinterpret_cast<std::byte*>(out.data()),
                 Dtype::f32);
  EXPECT_LT(distance(out, expected), 6e-3);
  // Token 0 alone, as bf16: its rows are the first of experts 0 and 3.
  std::vector<Bf16> row(hidden), answers(2 * hidden);
  for (std::size_t d = 0; d < hidden; ++d) row[d] = to_bf16(x[d]);
  const std::vector<std::uint32_t> zero = {0};
  const ExpertGroup single[] = {{fast[0].get(), zero, 0}, {fast[3].get(), zero, 1}};
  fast_->experts(reinterpret_cast<const std::byte*>(row.data()), Dtype::bf16, hidden, single,
                 reinterpret_cast<std::byte*>(answers.data()), Dtype::bf16);
  const std::size_t third = rows[0].size() + rows[1].size() + rows[2].size();
  for (std::size_t d = 0; d < hidden; ++d) {
    ASSERT_EQ(to_float(answers[d]), out[d]) << d;
    if (rows[3][0] == 0) {
      ASSERT_EQ(to_float(answers[hidden + d]), out[third * hidden + d]) << d;
    }
  }
}

/// Groups of more rows than a tile is wide, as prefill has them: close to the reference, and a row
/// the same alone.
TEST_F(Sm90Test, ExpertsOfManyRows) {
  constexpr std::size_t kSizes[] = {0, 300, 1, 257, 1030, 129, 0, 8};
  const std::size_t hidden = kShape.hidden;
  std::vector<std::unique_ptr<Expert>> fast, slow;
  std::vector<std::vector<std::uint32_t>> rows;
  std::uint32_t total = 0;
  for (const std::size_t size : kSizes) {
    const HostWeight gate = random_weight(rng_, kShape.inner, hidden, Dtype::bf16);
    const HostWeight up = random_weight(rng_, kShape.inner, hidden, Dtype::bf16);
    const HostWeight down = random_weight(rng_, hidden, kShape.inner, Dtype::bf16);
    fast.push_back(fast_->pack_expert(gate.matrix(), up.matrix(), down.matrix()));
    slow.push_back(reference_->pack_expert(gate.matrix(), up.matrix(), down.matrix()));
    rows.emplace_back(size);
    std::iota(rows.back().begin(), rows.back().end(), total);
    total += static_cast<std::uint32_t>(size);
  }
  auto x = random_floats(rng_, total * hidden);
  for (float& value : x) value = to_float(to_bf16(value));
  const auto* bytes = reinterpret_cast<const std::byte*>(x.data());
  const auto run = [&](Backend& backend, const std::vector<std::unique_ptr<Expert>>& experts) {
    std::vector<ExpertGroup> groups;
    for (std::size_t e = 0; e < experts.size(); ++e) {
      groups.push_back({experts[e].get(), rows[e], rows[e].empty() ? 0 : rows[e][0]});
    }
    std::vector<float> out(total * hidden, kPoison);
    backend.experts(bytes, Dtype::f32, hidden, groups, reinterpret_cast<std::byte*>(out.data()),
                    Dtype::f32);
    return out;
  };
  const auto out = run(*fast_, fast);
  EXPECT_LT(distance(out, run(*reference_, slow)), 6e-3);
  for (std::size_t e = 0; e < fast.size(); ++e) {
    if (rows[e].empty()) continue;
    for (const std::uint32_t token :
         {rows[e].front(), rows[e][rows[e].size() / 2], rows[e].back()}) {
      const std::vector<std::uint32_t> single = {token};
      const ExpertGroup alone[] = {{fast[e].get(), single, 0}};
      std::vector<float> row(hidden, kPoison);
      fast_->experts(bytes, Dtype::f32, hidden, alone, reinterpret_cast<std::byte*>(row.data()),
                     Dtype::f32);
      const auto at = out.begin() + static_cast<std::ptrdiff_t>(token * hidden);
      EXPECT_TRUE(same_bits(row, {at, at + static_cast<std::ptrdiff_t>(hidden)}))
          << "row " << token;
    }
  }
}

/// The backend with e4m3 experts against the same arithmetic on the CPU.
class Sm90Fp8Test : public ::testing::Test {
 protected:
  static Result<std::unique_ptr<Backend>> make() {
    return make_cuda_backend({.family = CudaFamily::sm90,
                              .shape = kShape,
                              .expert_weights = ExpertWeights::fp8_e4m3,
                              .strict = true});
  }
  void SetUp() override {
    auto made = make();
    if (!made.is_ok()) GTEST_SKIP() << made.status().message();
    fast_ = std::move(made).value();
    slow_ = std::make_unique<bench::Fp8Backend>(make_reference_backend(Precision::bf16),
                                                bench::Fp8Parts::weights_and_activations);
  }

  std::unique_ptr<Backend> fast_;
  std::unique_ptr<Backend> slow_;
  Rng rng_{2028};
};

TEST_F(Sm90Fp8Test, HasANumericsOfItsOwnAndHalfTheBytes) {
  EXPECT_EQ(fast_->numerics(), "cuda-sm90-bf16-fp8");
  const HostWeight gate = random_weight(rng_, kShape.inner, kShape.hidden, Dtype::bf16);
  const HostWeight down = random_weight(rng_, kShape.hidden, kShape.inner, Dtype::bf16);
  const auto expert = fast_->pack_expert(gate.matrix(), gate.matrix(), down.matrix());
  const std::size_t weights = 3 * std::size_t{kShape.inner} * kShape.hidden;
  EXPECT_GE(expert->bytes(), weights);
  EXPECT_LE(expert->bytes(), weights + weights / 100);
}

/// Groups of 1 to 150 tokens, some empty; every checkpoint type; each token alone the same bits.
TEST_F(Sm90Fp8Test, ExpertsAreTheSameArithmeticWhateverTheCompany) {
  constexpr std::size_t kTokens = 320;
  const std::size_t hidden = kShape.hidden;
  constexpr Dtype kTypes[] = {Dtype::bf16, Dtype::f32, Dtype::f16};
  std::vector<std::unique_ptr<Expert>> fast, slow;
  for (std::uint32_t e = 0; e < kShape.experts; ++e) {
    const Dtype type = kTypes[e % 3];
    const HostWeight gate = random_weight(rng_, kShape.inner, hidden, type);
    const HostWeight up = random_weight(rng_, kShape.inner, hidden, type);
    const HostWeight down = random_weight(rng_, hidden, kShape.inner, type);
    fast.push_back(fast_->pack_expert(gate.matrix(), up.matrix(), down.matrix()));
    slow.push_back(slow_->pack_expert(gate.matrix(), up.matrix(), down.matrix()));
  }
  auto x = random_floats(rng_, kTokens * hidden);
  for (float& value : x) value = to_float(to_bf16(value));
  const auto* bytes = reinterpret_cast<const std::byte*>(x.data());
  constexpr std::size_t kSizes[] = {1, 0, 9, 150, 40, 0, 17, 103};
  std::vector<std::vector<std::uint32_t>> rows(kShape.experts);
  std::uint32_t next = 0;
  for (std::uint32_t e = 0; e < kShape.experts; ++e) {
    for (std::size_t i = 0; i < kSizes[e]; ++i) rows[e].push_back(next++);
  }
  ASSERT_EQ(next, kTokens);
  const auto groups = [&](const std::vector<std::unique_ptr<Expert>>& experts) {
    std::vector<ExpertGroup> list;
    std::uint32_t output = 0;
    for (std::uint32_t e = 0; e < kShape.experts; ++e) {
      list.push_back({experts[e].get(), rows[e], output});
      output += static_cast<std::uint32_t>(rows[e].size());
    }
    return list;
  };
  std::vector<float> expected(kTokens * hidden), out(kTokens * hidden, kPoison);
  slow_->experts(bytes, Dtype::f32, hidden, groups(slow),
                 reinterpret_cast<std::byte*>(expected.data()), Dtype::f32);
  fast_->experts(bytes, Dtype::f32, hidden, groups(fast), reinterpret_cast<std::byte*>(out.data()),
                 Dtype::f32);
  // Codes of the inner activations tip where the tensor cores' shorter sums fall on the other side.
  EXPECT_LT(distance(out, expected), 2e-2);
  for (std::uint32_t e = 0; e < kShape.experts; ++e) {
    if (rows[e].empty()) continue;
    const std::uint32_t token = rows[e][rows[e].size() / 2];
    const std::vector<std::uint32_t> single = {token};
    const ExpertGroup alone[] = {{fast[e].get(), single, 0}};
    std::vector<float> row(hidden, kPoison);
    fast_->experts(bytes, Dtype::f32, hidden, alone, reinterpret_cast<std::byte*>(row.data()),
                   Dtype::f32);
    const auto at = out.begin() + static_cast<std::ptrdiff_t>(token * hidden);
    EXPECT_TRUE(same_bits(row, {at, at + static_cast<std::ptrdiff_t>(hidden)})) << "expert " << e;
  }
}

TEST_F(Sm90Fp8Test, SyntheticExpertsAreFinite) {
  auto* synthetic = dynamic_cast<SyntheticWeights*>(fast_.get());
  ASSERT_NE(synthetic, nullptr);
  const auto expert = synthetic->random_expert(kShape.hidden, kShape.inner, 7, 0.05F);
  const auto x = random_floats(rng_, kShape.hidden);
  std::vector<float> out(kShape.hidden, kPoison);
  const std::vector<std::uint32_t> zero = {0};
  const ExpertGroup group[] = {{expert.get(), zero, 0}};
  fast_->experts(reinterpret_cast<const std::byte*>(x.data()), Dtype::f32, kShape.hidden, group,
                 reinterpret_cast<std::byte*>(out.data()), Dtype::f32);
  double norm = 0;
  for (const float value : out) norm += static_cast<double>(value) * value;
  EXPECT_GT(norm, 0);
  EXPECT_TRUE(std::isfinite(norm));
}

TEST(Fp8Experts, AreRefusedWhereTheKernelsDoNotFit) {
  ModelShape small = kShape;
  small.head_dim = 64;
  const auto made = make_cuda_backend({.shape = small, .expert_weights = ExpertWeights::fp8_e4m3});
  ASSERT_FALSE(made.is_ok());  // without a GPU for want of one
  EXPECT_EQ(made.status().code(), Code::failed_precondition);
}

/// Runs `call(first row, rows)` over the rows in pieces of 1 to 90.
template <class Call>
void in_pieces(Rng& rng, std::uint32_t rows, const Call& call) {
  for (std::uint32_t at = 0; at < rows;) {
    const auto piece = std::min<std::uint32_t>(
        rows - at, 1 + static_cast<std::uint32_t>(rng.below(rng.below(2) == 0 ? 1 : 90)));
    call(at, piece);
    at += piece;
  }
}

TEST_F(Sm90Test, LightningWholeAndInPieces) {
  LightningShape shape{kShape.heads, 128, {}};
  for (std::uint32_t h = 0; h < shape.heads; ++h) {
    shape.decay.push_back(std::exp2(-8.0F * static_cast<float>(h + 1) / 16));
  }
  constexpr std::uint32_t kRows = 200;
  const std::size_t width = std::size_t{shape.heads} * 128;
  const auto qkv = random_floats(rng_, kRows * 3 * width);
  std::vector<float> expected(kRows * width), all(kRows * width, kPoison);
  const auto slot = reference_->allocate(reference_->lightning_slot_bytes(shape));
  const LightningSegment whole{0, kRows, 0, slot.get()};
  reference_->lightning(shape, qkv.data(), {&whole, 1}, expected.data());
  const std::size_t slot_bytes = fast_->lightning_slot_bytes(shape);
  const auto fast_slot = fast_->allocate(slot_bytes), other = fast_->allocate(slot_bytes);
  std::memset(fast_slot.get(), 0xff, slot_bytes);
  std::memset(other.get(), 0xff, slot_bytes);
  const LightningSegment fast_whole{0, kRows, 0, fast_slot.get()};
  fast_->lightning(shape, qkv.data(), {&fast_whole, 1}, all.data());
  EXPECT_LT(distance(all, expected), 1e-2);
  std::vector<float> cut(kRows * width, kPoison);
  in_pieces(rng_, kRows, [&](std::uint32_t at, std::uint32_t rows) {
    const LightningSegment piece{0, rows, at, other.get()};
    fast_->lightning(shape, qkv.data() + at * 3 * width, {&piece, 1}, cut.data() + at * width);
  });
  EXPECT_TRUE(same_bits(cut, all));
  // A slot also holds rows of blocks gone by, which nothing reads: that the states are equal shows
  // in what follows from them, beyond the end of the block.
  constexpr std::uint32_t kMore = 120;
  std::vector<float> next(kMore * width, kPoison), other_next(next);
  const LightningSegment after_whole{0, kMore, kRows, fast_slot.get()};
  const LightningSegment after_pieces{0, kMore, kRows, other.get()};
  fast_->lightning(shape, qkv.data(), {&after_whole, 1}, next.data());
  fast_->lightning(shape, qkv.data(), {&after_pieces, 1}, other_next.data());
  EXPECT_TRUE(same_bits(next, other_next)) << "states differ";
}

TEST_F(Sm90Test, SoftmaxWholeAndInPieces) {
  const SoftmaxShape shape{kShape.heads, kShape.kv_heads, 128, 64, 1e7};
  constexpr std::uint32_t kRows = 1100;  // more than one launch, three splits
  const std::size_t width = std::size_t{shape.heads} * 128;
  const std::size_t all_width = (std::size_t{shape.heads} + 2 * shape.kv_heads) * 128;
  const auto qkv = random_floats(rng_, kRows * all_width);
  std::vector<std::uint32_t> pages((kRows + kPageTokens - 1) / kPageTokens);
  std::iota(pages.rbegin(), pages.rend(), 0U);
  std::vector<float> expected(kRows * width), all(kRows * width, kPoison), cut(all);
  const auto run = [&](Backend& backend, const std::shared_ptr<std::byte>& pool, std::uint32_t at,
                       std::uint32_t rows, std::vector<float>& out) {
    const SoftmaxSegment segment{0, rows, at, pages.data()};
    backend.softmax(shape, qkv.data() + at * all_width, {&segment, 1}, pool.get(),
                    out.data() + at * width);
  };
  const auto pool_of = [&](Backend& backend) {
    const std::size_t bytes = pages.size() * backend.softmax_page_bytes(shape);
    auto pool = backend.allocate(bytes);
    std::memset(pool.get(), 0xff, bytes);
    return pool;
  };
  run(*reference_, pool_of(*reference_), 0, kRows, expected);
  run(*fast_, pool_of(*fast_), 0, kRows, all);
  EXPECT_LT(distance(all, expected), 1e-2);
  const auto pool = pool_of(*fast_);
  in_pieces(rng_, kRows,
            [&](std::uint32_t at, std::uint32_t rows) { run(*fast_, pool, at, rows, cut); });
  EXPECT_TRUE(same_bits(cut, all));
}

/// One layer's attention with its weights, for a backend.
struct BlockWeights {
  std::unique_ptr<Matrix> qkv, gate, out;
};
BlockWeights packed(Backend& backend, const HostWeight& qkv, const HostWeight& gate,
                    const HostWeight& out) {
  const HostMatrix parts[] = {qkv.matrix(), gate.matrix(), out.matrix()};
  return {backend.pack({&parts[0], 1}), backend.pack({&parts[1], 1}), backend.pack({&parts[2], 1})};
}

/// A whole block is close to the definition's, and a row's bits are its own: the sequence at once,
/// in pieces, and behind another one.
class Sm90BlockTest : public Sm90Test, public ::testing::WithParamInterface<bool> {
 protected:
  static constexpr std::uint32_t kRows = 150;
  AttentionFrame frame() const {
    return {norm_.data(), norm_post_.data(), 1e-5F, 3.5F, 1.0F, GetParam(), kShape.hidden};
  }
  std::vector<float> norm_ = random_floats(rng_, kShape.hidden);
  std::vector<float> norm_post_ = random_floats(rng_, kShape.hidden);
  AttentionScratch scratch_;
};
INSTANTIATE_TEST_SUITE_P(Norms, Sm90BlockTest, ::testing::Bool());

TEST_P(Sm90BlockTest, Lightning) {
  LightningShape shape{kShape.heads, 128, {}};
  for (std::uint32_t h = 0; h < shape.heads; ++h) {
    shape.decay.push_back(std::exp2(-8.0F * static_cast<float>(h + 1) / 16));
  }
  const std::size_t width = std::size_t{shape.heads} * 128, hidden = kShape.hidden;
  const HostWeight qkv = random_weight(rng_, 3 * width, hidden, Dtype::bf16);
  const HostWeight gate = random_weight(rng_, width, hidden, Dtype::bf16);
  const HostWeight out = random_weight(rng_, hidden, width, Dtype::bf16);
  const auto norm = random_floats(rng_, width);
  const auto h = random_floats(rng_, kRows * hidden), other = random_floats(rng_, kRows * hidden);
  const BlockWeights slow = packed(*reference_, qkv, gate, out);
  const BlockWeights fast = packed(*fast_, qkv, gate, out);
  const auto run = [&](Backend& backend, const BlockWeights& weights,
                       const std::vector<LightningSegment>& segments, std::vector<float> x) {
    std::vector<float> y(x.size(), kPoison);
    backend.lightning_block(frame(), shape,
                            {*weights.qkv, *weights.gate, norm.data(), 1e-6F, *weights.out},
                            x.size() / hidden, segments, scratch_, x.data(), y.data());
    return y;
  };
  const auto slot_of = [&](Backend& backend) {
    return backend.allocate(backend.lightning_slot_bytes(shape));
  };
  const auto slow_slot = slot_of(*reference_), a = slot_of(*fast_), b = slot_of(*fast_),
             c = slot_of(*fast_), d = slot_of(*fast_);
  const auto expected = run(*reference_, slow, {{0, kRows, 0, slow_slot.get()}}, h);
  const auto whole = run(*fast_, fast, {{0, kRows, 0, a.get()}}, h);
  EXPECT_LT(distance(whole, expected), 2e-2);
  std::vector<float> cut;
  in_pieces(rng_, kRows, [&](std::uint32_t at, std::uint32_t rows) {
    const auto y = run(*fast_, fast, {{0, rows, at, b.get()}},
                       {h.begin() + static_cast<std::ptrdiff_t>(at * hidden),
                        h.begin() + static_cast<std::ptrdiff_t>((at + rows) * hidden)});
    cut.insert(cut.end(), y.begin(), y.end());
  });
  EXPECT_TRUE(same_bits(cut, whole));
  std::vector<float> both = other;
  both.insert(both.end(), h.begin(), h.end());
  const auto joint = run(*fast_, fast, {{0, kRows, 0, c.get()}, {kRows, kRows, 0, d.get()}}, both);
  EXPECT_TRUE(
      same_bits({joint.end() - static_cast<std::ptrdiff_t>(whole.size()), joint.end()}, whole));
}

TEST_P(Sm90BlockTest, Softmax) {
  const SoftmaxShape shape{kShape.heads, kShape.kv_heads, 128, 64, 1e7};
  const std::size_t width = std::size_t{shape.heads} * 128, hidden = kShape.hidden;
  const std::size_t all = (std::size_t{shape.heads} + 2 * shape.kv_heads) * 128;
  const HostWeight qkv = random_weight(rng_, all, hidden, Dtype::bf16);
  const HostWeight out = random_weight(rng_, hidden, width, Dtype::bf16);
  const auto h = random_floats(rng_, kRows * hidden);
  const BlockWeights slow = packed(*reference_, qkv, out, out);
  const BlockWeights fast = packed(*fast_, qkv, out, out);
  const std::vector<std::uint32_t> pages = {2, 0, 1};
  const auto run = [&](Backend& backend, const BlockWeights& weights,
                       const std::shared_ptr<std::byte>& pool, std::uint32_t at,
                       std::vector<float> x) {
    std::vector<float> y(x.size(), kPoison);
    const SoftmaxSegment segment{0, static_cast<std::uint32_t>(x.size() / hidden), at,
                                 pages.data()};
    backend.softmax_block(frame(), shape, {*weights.qkv, *weights.out}, segment.rows, {&segment, 1},
                          pool.get(), scratch_, x.data(), y.data());
    return y;
  };
  const auto pool_of = [&](Backend& backend) {
    return backend.allocate(pages.size() * backend.softmax_page_bytes(shape));
  };
  const auto expected = run(*reference_, slow, pool_of(*reference_), 0, h);
  const auto whole = run(*fast_, fast, pool_of(*fast_), 0, h);
  EXPECT_LT(distance(whole, expected), 2e-2);
  const auto pool = pool_of(*fast_);
  std::vector<float> cut;
  in_pieces(rng_, kRows, [&](std::uint32_t at, std::uint32_t rows) {
    const auto y = run(*fast_, fast, pool, at,
                       {h.begin() + static_cast<std::ptrdiff_t>(at * hidden),
                        h.begin() + static_cast<std::ptrdiff_t>((at + rows) * hidden)});
    cut.insert(cut.end(), y.begin(), y.end());
  });
  EXPECT_TRUE(same_bits(cut, whole));
}

}  // namespace
}  // namespace fulgur::kernels::testing
