// The next token of rows of logits, chosen where they are: Backend::draw() against float64 on the
// host.
#include <algorithm>
#include <numeric>

#include "tests/support/device_backend.hpp"
#include "tests/unit/kernels/fixtures.hpp"

namespace fulgur::kernels::testing {
namespace {

class DrawTest : public ::testing::TestWithParam<std::size_t> {
 protected:
  static constexpr std::size_t kRows = 5;

  void SetUp() override {
    auto made = test::make_device_backend(Precision::bf16);
    if (!made.is_ok()) GTEST_SKIP() << made.status().message();
    backend_ = std::move(made).value();
    logits_ = random_floats(rng_, kRows * vocab(), 4.0F);
    device_ = backend_->allocate(logits_.size() * sizeof(float));
  }
  std::size_t vocab() const { return GetParam(); }
  const float* row(std::size_t r) const { return logits_.data() + r * vocab(); }

  std::vector<Drawn> draw(const std::vector<Draw>& rows, const std::vector<std::uint32_t>& banned) {
    backend_->upload(device_.get(), logits_.data(), logits_.size() * sizeof(float));
    std::vector<Drawn> out(rows.size());
    for (const bool reversed : test::device_orders()) {
      std::vector<Drawn> again(rows.size());
      test::in_order(reversed, [&] {
        backend_->draw(reinterpret_cast<const float*>(device_.get()), vocab(), rows, banned,
                       again.data());
      });
      if (reversed) {
        EXPECT_EQ(std::memcmp(out.data(), again.data(), out.size() * sizeof(Drawn)), 0);
      }
      out = again;
    }
    return out;
  }
  /// Log of the sum of all exponentials of a row.
  double log_total(std::size_t r) const {
    const double highest = *std::max_element(row(r), row(r) + vocab());
    double total = 0;
    for (std::size_t i = 0; i < vocab(); ++i) total += std::exp(row(r)[i] - highest);
    return highest + std::log(total);
  }

  std::unique_ptr<Backend> backend_;
  std::shared_ptr<std::byte> device_;
  std::vector<float> logits_;
  Rng rng_{99};
};
INSTANTIATE_TEST_SUITE_P(Vocabularies, DrawTest, ::testing::Values(7, 4096, 4097, 12289));

TEST_P(DrawTest, TheMostLikelyTokenTiesToTheLower) {
  // Row 0: the largest value twice, far apart; row 1: the largest is banned.
  const std::size_t a = vocab() / 3, b = vocab() - 1;
  logits_[a] = logits_[b] = 20.0F;
  logits_[vocab() + b] = 20.0F;
  const auto drawn = draw({{0, 0, 0}, {1, 0, 0}, {4, 0, 0}}, {static_cast<std::uint32_t>(b)});
  EXPECT_EQ(drawn[0].token, a);
  EXPECT_EQ(drawn[1].token, std::max_element(row(1), row(1) + b) - row(1));
  EXPECT_EQ(drawn[2].token, std::max_element(row(4), row(4) + b) - row(4));
  for (std::size_t i = 0; i < 3; ++i) {
    const std::size_t r = i == 2 ? 4 : i;
    EXPECT_NEAR(drawn[i].logprob, row(r)[drawn[i].token] - log_total(r), 1e-5);
  }
}

TEST_P(DrawTest, ADrawFallsWhereItsTokenLies) {
  const std::vector<std::uint32_t> banned = {1, static_cast<std::uint32_t>(vocab() - 2)};
  for (const float scale : {1.0F, 1.0F / 0.7F}) {
    for (int repeat = 0; repeat < 20; ++repeat) {
      // A token of each row, and the middle of its place in the distribution.
      std::vector<Draw> rows;
      std::vector<std::uint32_t> wanted;
      for (std::size_t r = 0; r < kRows; ++r) {
        std::vector<double> weights(vocab());
        const float highest = *std::max_element(row(r), row(r) + vocab());
        for (std::size_t i = 0; i < vocab(); ++i) {
          weights[i] = std::exp(static_cast<double>((row(r)[i] - highest) * scale));
        }
        for (const std::uint32_t token : banned) weights[token] = 0;
        const double total = std::accumulate(weights.begin(), weights.end(), 0.0);
        std::uint32_t token = 0;
        do token = static_cast<std::uint32_t>(rng_.below(vocab()));
        while (weights[token] < 1e-9 * total);
        const double before = std::accumulate(weights.begin(), weights.begin() + token, 0.0);
        rows.push_back(
            {static_cast<std::uint32_t>(r), scale, (before + weights[token] / 2) / total});
        wanted.push_back(token);
      }
      const auto drawn = draw(rows, banned);
      for (std::size_t r = 0; r < kRows; ++r) {
        EXPECT_EQ(drawn[r].token, wanted[r]);
        EXPECT_NEAR(drawn[r].logprob, row(r)[wanted[r]] - log_total(r), 1e-5);
      }
    }
  }
}

TEST_P(DrawTest, ARowAloneAndInCompany) {
  std::vector<Draw> rows;
  for (std::size_t r = 0; r < kRows; ++r) {
    rows.push_back(
        {static_cast<std::uint32_t>(kRows - 1 - r), r % 2 == 0 ? 1.0F : 0.0F, rng_.uniform()});
  }
  const auto all = draw(rows, {0});
  for (std::size_t i = 0; i < rows.size(); ++i) {
    const auto alone = draw({rows[i]}, {0});
    EXPECT_EQ(std::memcmp(&alone[0], &all[i], sizeof(Drawn)), 0) << i;
  }
}

TEST_P(DrawTest, BothEndsOfTheDistribution) {
  const std::vector<std::uint32_t> banned = {0, static_cast<std::uint32_t>(vocab() - 1)};
  const auto drawn = draw({{0, 1.0F, 0.0}, {0, 1.0F, std::nextafter(1.0, 0.0)}}, banned);
  EXPECT_EQ(drawn[0].token, 1U);
  EXPECT_EQ(drawn[1].token, vocab() - 2);
}

}  // namespace
}  // namespace fulgur::kernels::testing
