// Draws that a device ranks against the sampler's own over the whole row: the same tokens and
// log-probabilities, strictly. A seed makes the row, the parameters and the history. On a GPU,
// whose exp() is another one than the host's, only what needs no sums is compared.
#include "services/attention/device_draws.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "common/base/rng.hpp"
#include "tests/support/device_backend.hpp"

namespace fulgur::attention {
namespace {

using kernels::DrawSupport;

constexpr bool kEmulated = FULGUR_TEST_CUDA == 1;
constexpr float kNever = -std::numeric_limits<float>::infinity();

/// A row, the request that draws from it, and what is banned there.
struct Case {
  std::vector<float> logits;
  wire::Submit submit;
  std::vector<std::uint32_t> not_yet;
  std::vector<std::uint32_t> banned;

  DrawContext context() const {
    return {&submit.sampling, submit.tokens, submit.prompt_tokens, banned, not_yet};
  }
};

template <class T, std::size_t N>
T one_of(Rng& rng, const T (&values)[N]) {
  return values[rng.below(N)];
}

/// Normal values; sharp ones, flat ones, and some that are equal to many others.
std::vector<float> random_logits(Rng& rng, std::size_t vocab) {
  const float spread = one_of(rng, {0.05F, 1.0F, 3.0F, 10.0F});
  const bool coarse = rng.below(4) == 0;
  std::vector<float> logits(vocab);
  for (float& logit : logits) {
    double sum = -3;
    for (int i = 0; i < 6; ++i) sum += rng.uniform();
    logit = static_cast<float>(sum * 1.4) * spread;
    if (coarse) logit = std::round(logit);
  }
  return logits;
}

std::vector<std::uint32_t> random_tokens(Rng& rng, std::size_t count, std::size_t vocab) {
  std::vector<std::uint32_t> tokens(count);
  for (std::uint32_t& token : tokens) token = static_cast<std::uint32_t>(rng.below(vocab));
  return tokens;
}

Case random_case(std::uint64_t seed) {
  Rng rng(seed);
  Case one;
  const std::size_t vocab = one_of<std::size_t>(rng, {3, 200, 256, 5000, 9000});
  one.logits = random_logits(rng, vocab);
  wire::Submit& submit = one.submit;
  // Histories longer than what is ranked, and what is likely often among them.
  submit.tokens = random_tokens(rng, one_of<std::size_t>(rng, {1, 20, 2000}), vocab);
  const auto best = std::max_element(one.logits.begin(), one.logits.end()) - one.logits.begin();
  submit.tokens.push_back(static_cast<std::uint32_t>(best));
  submit.prompt_tokens = static_cast<std::uint32_t>(rng.below(submit.tokens.size() + 1));
  submit.logprobs = rng.below(2) == 0;
  submit.top_logprobs = static_cast<std::uint8_t>(rng.below(3) * 5);
  wire::SamplingParams& sampling = submit.sampling;
  sampling.seed = rng.next();
  sampling.temperature = one_of(rng, {0.0F, 0.3F, 1.0F, 1.0F, 1.7F});
  sampling.top_p = one_of(rng, {1.0F, 1.0F, 0.95F, 0.5F, 0.01F});
  sampling.top_k = one_of<std::uint32_t>(rng, {0, 0, 1, 40, 200, 300});
  sampling.min_p = one_of(rng, {0.0F, 0.0F, 0.05F, 1e-6F});
  sampling.presence_penalty = one_of(rng, {0.0F, 0.0F, 0.7F, -0.4F});
  sampling.frequency_penalty = one_of(rng, {0.0F, 0.0F, 0.3F});
  sampling.repetition_penalty = one_of(rng, {1.0F, 1.0F, 1.2F, 0.8F});
  for (std::size_t n = rng.below(3) * rng.below(5); n > 0; --n) {
    sampling.logit_bias.emplace_back(static_cast<std::uint32_t>(rng.below(vocab + 5)),
                                     one_of(rng, {1.5F, -100.0F, 3.0F}));
  }
  if (vocab > 3 && rng.below(3) == 0) {
    one.not_yet = random_tokens(rng, 2, vocab);
    one.not_yet.push_back(static_cast<std::uint32_t>(best));
    one.not_yet.push_back(static_cast<std::uint32_t>(vocab + 1));
  }
  if (vocab > 3 && rng.below(3) == 0) {
    one.banned = random_tokens(rng, 3, vocab);
    std::sort(one.banned.begin(), one.banned.end());
  }
  return one;
}

class DeviceDrawsTest : public testing::TestWithParam<DrawSupport> {
 protected:
  void SetUp() override {
    if (!kEmulated && GetParam() == DrawSupport::all) GTEST_SKIP() << "exp() is not the host's";
    auto made = test::make_device_backend(kernels::Precision::bf16);
    if (!made.is_ok()) GTEST_SKIP() << made.status().message();
    backend_ = std::move(made).value();
  }

  /// Rows of cases with one vocabulary and one list of banned tokens, on the device.
  void run(DeviceDraws& draws, const std::vector<Case>& cases) {
    const std::size_t vocab = cases[0].logits.size();
    device_ = backend_->allocate(cases.size() * vocab * sizeof(float));
    auto* rows = reinterpret_cast<float*>(device_.get());
    draws.clear();
    for (std::uint32_t row = 0; row < cases.size(); ++row) {
      backend_->upload(device_.get() + row * vocab * sizeof(float), cases[row].logits.data(),
                       vocab * sizeof(float));
      draws.add(row, cases[row].submit, cases[row].context());
    }
    draws.run(*backend_, rows, cases[0].banned);
  }

  /// What the device chose for the row is what the sampler chooses, or the row is as it was.
  /// Whether it chose.
  bool expect_same(const DeviceDraws& draws, std::uint32_t row, const Case& one) {
    const auto chosen = draws.chosen(row, one.submit, one.context());
    if (!chosen) {
      std::vector<float> logits(one.logits.size());
      const std::size_t bytes = logits.size() * sizeof(float);
      backend_->download(logits.data(), device_.get() + row * bytes, bytes);
      draws.restore(row, logits);
      EXPECT_EQ(logits, one.logits);
      return false;
    }
    std::vector<float> logits = one.logits;
    EXPECT_EQ(chosen->token, draw_token(logits, one.context()));
    if (!one.submit.logprobs) return true;
    const auto want = log_probabilities(one.logits, chosen->token, one.submit.top_logprobs);
    EXPECT_EQ(chosen->logprobs.chosen, want.chosen);
    EXPECT_EQ(chosen->logprobs.top, want.top);
    return true;
  }
  bool expect_same(const Case& one) {
    DeviceDraws draws(GetParam(), one.logits.size());
    run(draws, {one});
    return expect_same(draws, 0, one);
  }

  std::unique_ptr<kernels::Backend> backend_;
  std::shared_ptr<std::byte> device_;
};
INSTANTIATE_TEST_SUITE_P(Supports, DeviceDrawsTest,
                         testing::Values(DrawSupport::most_likely, DrawSupport::all),
                         [](const auto& info) {
                           return info.param == DrawSupport::all ? "All" : "MostLikely";
                         });

TEST_P(DeviceDrawsTest, AreTheSamplers) {
  constexpr std::uint64_t kSeeds = 3000;
  std::uint64_t chosen = 0;
  for (std::uint64_t seed = 0; seed < kSeeds; ++seed) {
    SCOPED_TRACE("seed " + std::to_string(seed));
    chosen += expect_same(random_case(seed)) ? 1 : 0;
    if (HasFailure()) return;
  }
  // Most are, and some cannot be.
  EXPECT_GT(chosen, GetParam() == DrawSupport::all ? kSeeds * 3 / 4 : kSeeds / 4);
  EXPECT_LT(chosen, kSeeds);
}

TEST_P(DeviceDrawsTest, RowsOfOneChunk) {
  // Plain draws, ranked ones and the caller's in one call; edits of one row are not another's.
  std::vector<Case> cases;
  for (std::uint64_t seed = 0; cases.size() < 24; ++seed) {
    Case one = random_case(seed);
    if (one.logits.size() != 5000) continue;
    one.banned = {7, 8};
    if (cases.size() % 4 == 0) one.submit.sampling = {};
    cases.push_back(std::move(one));
  }
  DeviceDraws draws(GetParam(), 5000);
  for (int again = 0; again < 2; ++again) {
    run(draws, cases);
    for (std::uint32_t row = 0; row < cases.size(); ++row) {
      SCOPED_TRACE(row);
      expect_same(draws, row, cases[row]);
    }
    std::reverse(cases.begin(), cases.end());
  }
}

/// A row of 5000 and a request that only wants a token.
Case plain_case() {
  Case one;
  Rng rng(11);
  one.logits.resize(5000);
  for (float& logit : one.logits) logit = static_cast<float>(rng.uniform() * 8);
  one.submit.tokens = {1, 2, 3};
  one.submit.prompt_tokens = 1;
  return one;
}

TEST_P(DeviceDrawsTest, WhatTheRankedTokensSufficeFor) {
  const bool sums = GetParam() == DrawSupport::all;
  Case one = plain_case();
  auto& sampling = one.submit.sampling;
  sampling.top_k = 256;
  sampling.top_p = 0.95F;
  EXPECT_TRUE(expect_same(one));
  sampling.top_k = 257;
  EXPECT_FALSE(expect_same(one)) << "one more than is ranked";
  sampling.top_k = 256;
  one.banned = {static_cast<std::uint32_t>(std::max_element(one.logits.begin(), one.logits.end()) -
                                           one.logits.begin())};
  EXPECT_FALSE(expect_same(one)) << "one of the ranked ones is banned";
  sampling.top_k = 0;
  one.banned.clear();
  EXPECT_FALSE(expect_same(one)) << "a flat distribution";
  for (float& logit : one.logits) logit *= 20;
  EXPECT_EQ(expect_same(one), sums) << "a sharp one";
  sampling = {};
  sampling.min_p = 0.5F;
  EXPECT_TRUE(expect_same(one));
  sampling.min_p = 1e-30F;
  EXPECT_FALSE(expect_same(one));
}

TEST_P(DeviceDrawsTest, RowsWithoutNumbersAreTheCallers) {
  Case one = plain_case();
  one.submit.sampling.top_k = 40;
  for (const float value : {kNever, std::numeric_limits<float>::quiet_NaN()}) {
    std::fill(one.logits.begin(), one.logits.end(), value);
    DeviceDraws draws(GetParam(), one.logits.size());
    run(draws, {one});
    EXPECT_FALSE(draws.chosen(0, one.submit, one.context()));
  }
}

TEST_P(DeviceDrawsTest, AlternativesOfARowWhoseLikelyTokensAreEdited) {
  if (GetParam() != DrawSupport::all) return;
  Case one = plain_case();
  one.submit.logprobs = true;
  one.submit.top_logprobs = 20;
  one.submit.sampling.top_k = 5;
  // Everything that is likely is penalised out of the ranked tokens ...
  for (std::uint32_t token = 0; token < one.logits.size(); ++token) {
    if (one.logits[token] > 7) one.submit.sampling.logit_bias.emplace_back(token, -50.0F);
  }
  EXPECT_TRUE(expect_same(one));
  // ... and so many others are raised that the ranked tokens are all edited: what is likely without
  // the edits is not known.
  one.submit.sampling.logit_bias.clear();
  for (std::uint32_t token = 0; token < one.logits.size(); ++token) {
    if (one.logits[token] < 4) one.submit.sampling.logit_bias.emplace_back(token, 50.0F);
  }
  EXPECT_FALSE(expect_same(one));
}

TEST_P(DeviceDrawsTest, NothingIsAskedOfABackendThatCannot) {
  Case one = plain_case();
  DeviceDraws draws(DrawSupport::none, one.logits.size());
  run(draws, {one});
  EXPECT_FALSE(draws.chosen(0, one.submit, one.context()));
}

}  // namespace
}  // namespace fulgur::attention
