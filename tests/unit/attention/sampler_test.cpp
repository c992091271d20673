// Draws against hand-computed distributions; determinism in (seed, position); penalties and bans.
#include "services/attention/sampler.hpp"

#include <gtest/gtest.h>

#include <array>
#include <cmath>

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

TEST(Sampler, DependsOnSeedAndPositionOnly) {
  const std::vector<float> logits(100, 0.0F);
  wire::SamplingParams params;
  params.seed = 9;
  const auto at_three = draw(logits, params, {1, 2, 3}, 1);
  EXPECT_EQ(draw(logits, params, {7, 7, 7}, 2), at_three);
  EXPECT_NE(draw(logits, params, {1, 2, 3, 4}, 1), at_three);
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
