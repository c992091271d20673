// The most likely tokens of rows of logits and what they add up to: Backend::rank() against a full
// sort on the host. All but the sums must be equal to the bit; emulated, the sums, too.
#include <algorithm>
#include <bit>
#include <numeric>

#include "tests/support/device_backend.hpp"
#include "tests/unit/kernels/fixtures.hpp"

namespace fulgur::kernels::testing {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();
constexpr bool kEmulated = FULGUR_TEST_CUDA == 1;

/// As Ranked::tokens: NaN last, else by descending logit, then by ascending id.
std::vector<RankedToken> sorted(std::span<const float> row) {
  std::vector<RankedToken> tokens;
  for (const float logit : row) {
    tokens.push_back({logit + 0.0F, static_cast<std::uint32_t>(tokens.size())});
  }
  std::stable_sort(tokens.begin(), tokens.end(), [](const RankedToken& a, const RankedToken& b) {
    if (std::isnan(a.logit) || std::isnan(b.logit)) return !std::isnan(a.logit);
    return a.logit > b.logit;
  });
  tokens.resize(std::min(tokens.size(), kRanks));
  return tokens;
}

float edited(float logit, const LogitEdit& edit) {
  if (edit.plus == kNever) return kNever;
  logit = logit > 0 ? logit / edit.repetition : logit * edit.repetition;
  return logit - edit.minus + edit.plus;
}

class RankTest : public ::testing::TestWithParam<std::size_t> {
 protected:
  void SetUp() override {
    auto made = test::make_device_backend(Precision::bf16);
    if (!made.is_ok()) GTEST_SKIP() << made.status().message();
    backend_ = std::move(made).value();
  }
  std::size_t vocab() const { return GetParam(); }
  std::span<float> row(std::size_t r) { return std::span(logits_).subspan(r * vocab(), vocab()); }

  /// Random rows; then a test makes them special.
  void make(std::size_t rows) {
    logits_ = random_floats(rng_, rows * vocab(), 4.0F);
    device_ = backend_->allocate(logits_.size() * sizeof(float));
  }

  /// What the device makes of logits_, which stay as they are.
  Ranked rank(const std::vector<Rank>& rows, const std::vector<std::uint32_t>& banned = {}) {
    Ranked out;
    for (const bool reversed : test::device_orders()) {
      Ranked again;
      backend_->upload(device_.get(), logits_.data(), logits_.size() * sizeof(float));
      test::in_order(reversed, [&] {
        backend_->rank(reinterpret_cast<float*>(device_.get()), vocab(), rows, banned, again);
      });
      if (reversed) expect_equal(out, again);
      out = std::move(again);
    }
    return out;
  }
  static void expect_equal(const Ranked& a, const Ranked& b) {
    const auto same = [](const auto& x, const auto& y) {
      return x.size() == y.size() &&
             (x.empty() || std::memcmp(x.data(), y.data(), x.size() * sizeof(x[0])) == 0);
    };
    EXPECT_TRUE(same(a.tokens, b.tokens));
    EXPECT_TRUE(same(a.totals, b.totals));
    EXPECT_TRUE(same(a.before, b.before));
  }
  static void expect_tokens(std::span<const RankedToken> got,
                            const std::vector<RankedToken>& want) {
    ASSERT_EQ(got.size(), want.size());
    for (std::size_t i = 0; i < want.size(); ++i) {
      ASSERT_EQ(got[i].token, want[i].token) << "rank " << i;
      if (std::isnan(want[i].logit)) {
        ASSERT_TRUE(std::isnan(got[i].logit)) << "rank " << i;
      } else {
        ASSERT_EQ(std::bit_cast<std::uint32_t>(got[i].logit),
                  std::bit_cast<std::uint32_t>(want[i].logit))
            << "rank " << i;
      }
    }
  }
  static void expect_sum(double got, double want) {
    if (kEmulated) {
      EXPECT_EQ(got, want);
    } else {
      EXPECT_NEAR(got, want, 1e-12 * want);  // exp() is another one
    }
  }
  /// All rows, nothing but ranks.
  std::vector<Rank> all_rows() const {
    std::vector<Rank> rows;
    for (std::size_t r = 0; r < logits_.size() / vocab(); ++r) {
      rows.push_back({{static_cast<std::uint32_t>(r), 0, 0}, false, {}});
    }
    return rows;
  }

  std::unique_ptr<Backend> backend_;
  std::shared_ptr<std::byte> device_;
  std::vector<float> logits_;
  Rng rng_{2027};
};
INSTANTIATE_TEST_SUITE_P(Vocabularies, RankTest,
                         ::testing::Values(1, 7, 255, 256, 257, 4096, 4097, 5000, 65537, 200064));

TEST_P(RankTest, RandomRows) {
  make(3);
  const Ranked ranked = rank({{{2, 0, 0}, false, {}}, {{0, 0, 0}, false, {}}});
  EXPECT_EQ(ranked.each, std::min(vocab(), kRanks));
  expect_tokens(ranked.row(0), sorted(row(2)));
  expect_tokens(ranked.row(1), sorted(row(0)));
}

TEST_P(RankTest, TiesGoToTheLowerId) {
  make(6);
  std::fill(row(0).begin(), row(0).end(), 1.5F);
  for (float& logit : row(1)) logit = std::round(logit);
  for (std::size_t i = 0; i < vocab(); ++i) row(2)[i] = static_cast<float>(i);
  for (std::size_t i = 0; i < vocab(); ++i) row(3)[i] = -static_cast<float>(i);
  // All of the highest in one group of columns, and the bound in the middle of a tie.
  for (std::size_t i = 0; i < vocab(); i += 256) row(4)[i] = 30;
  for (std::size_t i = 0; i < vocab(); ++i) row(5)[i] = i % 2 == 0 ? 0.0F : -0.0F;
  const Ranked ranked = rank(all_rows());
  for (std::size_t r = 0; r < 6; ++r) {
    SCOPED_TRACE(r);
    expect_tokens(ranked.row(r), sorted(row(r)));
  }
}

TEST_P(RankTest, RowsThatAreHardlyNumbers) {
  make(6);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  std::fill(row(0).begin(), row(0).end(), nan);
  std::fill(row(1).begin(), row(1).end(), kNever);
  for (std::size_t i = 0; i < vocab(); i += 3) row(2)[i] = -nan;
  for (std::size_t i = 1; i < vocab(); i += 2) row(3)[i] = kNever;
  row(4)[vocab() - 1] = -kNever;
  for (float& logit : row(5)) logit *= 1e-39F;  // subnormals are ranked as they are
  const Ranked ranked = rank(all_rows());
  for (std::size_t r = 0; r < 6; ++r) {
    SCOPED_TRACE(r);
    expect_tokens(ranked.row(r), sorted(row(r)));
  }
}

TEST_P(RankTest, EditsAndTotals) {
  make(4);
  std::vector<std::vector<LogitEdit>> edits(4);
  for (std::size_t r = 0; r < 3; ++r) {
    for (std::uint32_t token = 0; token < vocab(); ++token) {
      if (r == 2 && rng_.below(3) != 0) continue;
      if (rng_.below(vocab()) > 300) continue;
      const float plus[] = {0, 0, 1.25F, -20, kNever};
      edits[r].push_back({token, r == 1 ? 1.3F : 1.0F, 0.25F * static_cast<float>(rng_.below(4)),
                          plus[rng_.below(5)]});
    }
  }
  // No edits, edits without totals, edits with totals, and two rows before them in another order.
  const std::vector<Rank> rows{{{3, 1.0F, 0.3}, true, {}},
                               {{0, 0, 0}, false, edits[0]},
                               {{2, 1.0F / 0.7F, 0.9}, true, edits[2]},
                               {{1, 0, 0}, true, edits[1]}};
  std::vector<std::uint32_t> banned;
  if (vocab() > 2) banned = {0, static_cast<std::uint32_t>(vocab() / 2)};
  const Ranked ranked = rank(rows, banned);
  ASSERT_EQ(ranked.totals.size(), 3U);
  std::size_t total = 0, before = 0;
  for (std::size_t i = 0; i < rows.size(); ++i) {
    SCOPED_TRACE(i);
    const Rank& asked = rows[i];
    const std::span<const float> raw = row(asked.draw.row);
    std::vector<float> logits(raw.begin(), raw.end());
    for (const LogitEdit& edit : asked.edits) {
      EXPECT_EQ(ranked.before[before++], raw[edit.token]);
      logits[edit.token] = edited(raw[edit.token], edit);
    }
    expect_tokens(ranked.row(i), sorted(logits));
    if (!asked.totals) continue;
    const RankTotals& got = ranked.totals[total++];
    const float raw_highest = *std::max_element(raw.begin(), raw.end());
    EXPECT_EQ(got.raw_highest, raw_highest);
    expect_sum(got.raw_sum, draw_sum(vocab(), [&](std::size_t token) {
                 return std::exp(static_cast<double>(raw[token] - raw_highest));
               }));
    EXPECT_EQ(got.logit, logits[got.token]);
    for (const std::uint32_t token : banned) logits[token] = kNever;
    const float highest = *std::max_element(logits.begin(), logits.end());
    EXPECT_EQ(got.highest, highest);
    if (asked.draw.scale <= 0) {
      EXPECT_EQ(got.token, std::max_element(logits.begin(), logits.end()) - logits.begin());
      continue;
    }
    expect_sum(got.sum, draw_sum(vocab(), [&](std::size_t token) {
                 return std::exp(static_cast<double>((logits[token] - highest) * asked.draw.scale));
               }));
  }
  EXPECT_EQ(before, ranked.before.size());
}

TEST_P(RankTest, ARowAloneAndInCompany) {
  make(5);
  const std::vector<LogitEdit> edits{{0, 1.1F, 0, 0}};
  std::vector<Rank> rows = all_rows();
  for (std::size_t r = 0; r < rows.size(); ++r) {
    rows[r].draw = {static_cast<std::uint32_t>(4 - r), 0.8F, rng_.uniform()};
    rows[r].totals = true;
    if (r % 2 == 1) rows[r].edits = edits;
  }
  const Ranked all = rank(rows);
  for (std::size_t r = 0; r < rows.size(); ++r) {
    const Ranked alone = rank({rows[r]});
    expect_tokens(all.row(r), {alone.tokens.begin(), alone.tokens.end()});
    EXPECT_EQ(std::memcmp(&alone.totals[0], &all.totals[r], sizeof(RankTotals)), 0);
  }
}

}  // namespace
}  // namespace fulgur::kernels::testing
