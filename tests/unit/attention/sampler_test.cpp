// Draws against hand-computed distributions; determinism in (seed, position); penalties and bans.
#include "services/attention/sampler.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>

#include "common/base/rng.hpp"

namespace fulgur::attention {
namespace {

std::uint32_t draw(std::vector<float> logits, const wire::SamplingParams& params,
                   std::vector<std::uint32_t> tokens = {0}, std::uint32_t prompt = 1,
                   std::vector<std::uint32_t> banned = {}, std::vector<std::uint32_t> not_yet = {}) {
  DrawContext context;
  context.params = &params;
  context.tokens = tokens;
  context.prompt_tokens = prompt;
  context.banned = banned;
  context.not_yet = not_yet;
  return draw_token(logits, context);
}

wire::SamplingParams greedy() {
  wire::SamplingParams params;
  params.temperature = 0;
  return params;
}

TEST(Sampler, GreedyTakesTheLowestOfEquals) {
  EXPECT_EQ(draw({1, 3, 3, 2}, greedy()), 1U);
  EXPECT_EQ(draw({1, 3, 3, 2}, greedy(), {0}, 1, {1}), 2U);
  EXPECT_EQ(draw({1, 3, 3, 2}, greedy(), {0}, 1, {1}, {2}), 3U);
}

TEST(Sampler, PenaltiesCountGeneratedTokensOnlyButRepetitionThePromptToo) {
  auto params = greedy();
  params.frequency_penalty = 1.0F;
  EXPECT_EQ(draw({5, 4.5, 0}, params, {0, 0, 0}, 3), 0U) << "prompt tokens are free";
  EXPECT_EQ(draw({5, 4.5, 0}, params, {2, 0}, 1), 1U);
  params = greedy();
  params.presence_penalty = 0.4F;
  EXPECT_EQ(draw({5, 4.5, 0}, params, {2, 0, 0, 0}, 1), 0U) << "once, however often";
  params = greedy();
  params.repetition_penalty = 2.0F;
  EXPECT_EQ(draw({5, 4.5, 0}, params, {0}, 1), 1U);
  params = greedy();
  params.logit_bias = {{2, 100.0F}};
  EXPECT_EQ(draw({5, 4.5, 0}, params), 2U);
}

/// Frequencies over many seeds follow `expected` within five standard deviations.
void expect_frequencies(const std::vector<float>& logits, wire::SamplingParams params,
                        const std::vector<double>& expected) {
  constexpr int kDraws = 20'000;
  std::vector<int> counts(logits.size());
  for (int seed = 0; seed < kDraws; ++seed) {
    params.seed = static_cast<std::uint64_t>(seed);
    ++counts[draw(logits, params)];
  }
  for (std::size_t id = 0; id < logits.size(); ++id) {
    const double sigma = std::sqrt(expected[id] * (1 - expected[id]) / kDraws) + 1e-9;
    EXPECT_NEAR(counts[id] / double{kDraws}, expected[id], 5 * sigma) << id;
  }
}

TEST(Sampler, FollowsTheDistribution) {
  const std::vector<float> logits{std::log(0.5F), std::log(0.3F), std::log(0.15F), std::log(0.05F)};
  expect_frequencies(logits, {}, {0.5, 0.3, 0.15, 0.05});
  wire::SamplingParams params;
  params.top_k = 2;
  expect_frequencies(logits, params, {0.625, 0.375, 0, 0});
  params = {};
  params.top_p = 0.7F;
  expect_frequencies(logits, params, {0.625, 0.375, 0, 0});
  params = {};
  params.min_p = 0.2F;
  expect_frequencies(logits, params, {0.5 / 0.95, 0.3 / 0.95, 0.15 / 0.95, 0});
  params = {};
  params.temperature = 0.5F;
  const double total = 0.25 + 0.09 + 0.0225 + 0.0025;
  expect_frequencies(logits, params, {0.25 / total, 0.09 / total, 0.0225 / total, 0.0025 / total});
}

// 1 / temperature is infinite for the smallest of them.
TEST(Sampler, ATemperatureOfNearlyNothingIsGreedy) {
  const std::vector<float> logits{1.0F, 2.0F, 7.0F, 6.9F};
  for (const float temperature : {0.0F, 1e-40F, 1e-38F, 1e-6F}) {
    wire::SamplingParams params;
    params.temperature = temperature;
    EXPECT_EQ(draw(logits, params), 2U) << temperature;
    EXPECT_TRUE(is_greedy(params)) << temperature;
  }
}

TEST(Sampler, DependsOnSeedAndPositionOnly) {
  const std::vector<float> logits(100, 0.0F);
  wire::SamplingParams params;
  params.seed = 9;
  const auto at_three = draw(logits, params, {1, 2, 3}, 1);
  EXPECT_EQ(draw(logits, params, {7, 7, 7}, 2), at_three);
  EXPECT_NE(draw(logits, params, {1, 2, 3, 4}, 1), at_three);
}

/// A row of a real vocabulary's size: several parts, the last one not full.
std::vector<float> wide_row(Rng& rng, float spread) {
  std::vector<float> logits(9001);
  for (float& logit : logits) logit = static_cast<float>(rng.uniform() + rng.uniform()) * spread;
  return logits;
}

TEST(Sampler, TopPAloneKeepsWhatAFullSortKeeps) {
  Rng rng(3);
  for (int repeat = 0; repeat < 200; ++repeat) {
    // Nuclei of a few tokens, of hundreds and of thousands; some rows are full of ties.
    auto logits = wide_row(rng, std::array{60.0F, 8.0F, 2.0F}[rng.below(3)]);
    if (rng.below(3) == 0) {
      for (float& logit : logits) logit = std::round(logit);
    }
    wire::SamplingParams params;
    params.temperature = 0.9F;
    params.top_p = std::array{0.5F, 0.95F, 0.999F}[rng.below(3)];
    params.seed = rng.next();
    std::vector<std::uint32_t> ids(logits.size());
    std::iota(ids.begin(), ids.end(), 0);
    std::stable_sort(ids.begin(), ids.end(),
                     [&](std::uint32_t a, std::uint32_t b) { return logits[a] > logits[b]; });
    const float scale = 1.0F / params.temperature;
    const auto weight = [&](std::size_t id) {
      return std::exp(static_cast<double>((logits[id] - logits[ids[0]]) * scale));
    };
    const double total = kernels::draw_sum(logits.size(), weight);
    double kept = 0;
    std::size_t count = 0;
    while (count < ids.size() && kept < params.top_p * total) kept += weight(ids[count++]);
    double left = random_uniform(params.seed, 1) * kept;
    std::size_t at = 0;
    while (at + 1 < count && left >= weight(ids[at])) left -= weight(ids[at++]);
    EXPECT_EQ(draw(logits, params), ids[at]) << repeat << ", " << count << " kept";
  }
}

TEST(Sampler, ADrawFromAllFallsWhereItsTokenLies) {
  Rng rng(4);
  for (int repeat = 0; repeat < 200; ++repeat) {
    const auto logits = wide_row(rng, 6.0F);
    wire::SamplingParams params;
    params.seed = rng.next();
    const std::uint32_t token = draw(logits, params, {0}, 1, {0, 9000});
    double before = 0, here = 0, total = 0;
    for (std::uint32_t id = 1; id < 9000; ++id) {
      const double weight = std::exp(double{logits[id]});
      if (id < token) before += weight;
      if (id == token) here = weight;
      total += weight;
    }
    const double at = random_uniform(params.seed, 1) * total;
    EXPECT_GE(at, before * (1 - 1e-6)) << repeat;
    EXPECT_LE(at, (before + here) * (1 + 1e-6)) << repeat;
  }
}

TEST(Sampler, EditsSayWhatChanges) {
  wire::SamplingParams params;
  DrawContext context;
  const std::vector<std::uint32_t> tokens{7, 3, 200, 7, 3, 3};
  context.params = &params;
  context.tokens = tokens;
  context.prompt_tokens = 3;
  EXPECT_TRUE(logit_edits(context, 100).empty());
  params.repetition_penalty = 1.5F;
  params.presence_penalty = 0.5F;
  params.frequency_penalty = 0.25F;
  params.logit_bias = {{99, 2.0F}, {3, 1.0F}, {100, 5.0F}, {99, 0.5F}};
  const std::vector<std::uint32_t> not_yet{64, 300};
  context.not_yet = not_yet;
  const auto edits = logit_edits(context, 100);
  ASSERT_EQ(edits.size(), 4U) << "200 and 100 are no tokens";
  const auto expect = [&](std::size_t at, std::uint32_t token, float repetition, float minus,
                          float plus) {
    EXPECT_EQ(edits[at].token, token);
    EXPECT_EQ(edits[at].repetition, repetition);
    EXPECT_EQ(edits[at].minus, minus);
    EXPECT_EQ(edits[at].plus, plus);
  };
  expect(0, 3, 1.5F, 1.0F, 1.0F);
  expect(1, 7, 1.5F, 0.75F, 0.0F);
  expect(2, 64, 1.0F, 0.0F, -std::numeric_limits<float>::infinity());
  expect(3, 99, 1.0F, 0.0F, 2.5F);
}

TEST(Logprobs, AreOfTheUnmodifiedDistribution) {
  const std::vector<float> logits{std::log(0.5F), std::log(0.3F), std::log(0.2F)};
  const auto result = log_probabilities(logits, 1, 2);
  EXPECT_NEAR(result.chosen, std::log(0.3), 1e-6);
  ASSERT_EQ(result.top.size(), 2U);
  EXPECT_EQ(result.top[0].token, 0U);
  EXPECT_NEAR(result.top[1].logprob, std::log(0.3), 1e-6);
}

}  // namespace
}  // namespace fulgur::attention
