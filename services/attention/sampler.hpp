// From logits to a token. Pure functions of (logits, parameters, history, position): a token drawn
// again after a retry is the same token. Greedy ties go to the lower id. A row of logits is either
// here, or on a device that has ranked it (kernels::Backend::rank()): the answers are the same.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "common/wire/messages.hpp"
#include "kernels/include/fulgur/kernels/draw.hpp"

namespace fulgur::attention {

/// What one draw needs to know about its sequence.
struct DrawContext {
  const wire::SamplingParams* params = nullptr;
  std::span<const std::uint32_t> tokens;  ///< prompt and generated so far
  std::uint32_t prompt_tokens = 0;
  std::span<const std::uint32_t> banned;   ///< never sampled; ascending
  std::span<const std::uint32_t> not_yet;  ///< not sampled at this position (min_new_tokens)
};

/// Below it nothing but the most likely token is ever drawn, and 1 / temperature soon is infinite.
inline constexpr float kLeastTemperature = 1e-5F;

/// Whether the most likely token is taken.
inline bool is_greedy(const wire::SamplingParams& params) {
  return params.temperature < kLeastTemperature || params.top_k == 1;
}
/// Whether a draw that is not greedy is one of some, chosen by rank or by likelihood.
inline bool is_ranked(const wire::SamplingParams& params) {
  return params.top_k > 0 || params.top_p < 1.0F || params.min_p > 0.0F;
}
/// Whether it needs the sum over all tokens, not only over the ranked ones.
inline bool needs_sum(const wire::SamplingParams& params) {
  return !is_greedy(params) && params.top_k == 0 && params.min_p <= 0.0F;
}

/// What penalties, biases and not_yet change before a draw, ascending; tokens outside the
/// vocabulary are left out. Of a token that is biased twice the biases are added up first.
std::vector<kernels::LogitEdit> logit_edits(const DrawContext& context, std::size_t vocab);

/// Draws the token for position tokens.size(). logits [vocab] float32 is overwritten.
std::uint32_t draw_token(std::span<float> logits, const DrawContext& context);

/// Natural log-probabilities of the unmodified distribution: of `token`, and of the `top` most
/// likely tokens (descending, ties to the lower id).
struct Logprobs {
  float chosen = 0;
  std::vector<wire::TokenLogprob> top;
};
Logprobs log_probabilities(std::span<const float> logits, std::uint32_t token, std::size_t top);

/// What a backend says about a row of logits that it edited and ranked.
struct RankedRow {
  std::span<const kernels::RankedToken> tokens;  ///< as kernels::Ranked::row()
  std::size_t vocab = 0;
  const kernels::RankTotals* totals = nullptr;  ///< null: not asked for
  std::span<const kernels::LogitEdit> edits;    ///< ascending
  std::span<const float> before;                ///< [edits] the logits they changed
};
/// The same token, or nothing: when it depends on tokens that are not among the ranked ones (a flat
/// distribution, a large top_k), or when the row holds no numbers. Needs totals if needs_sum().
std::optional<std::uint32_t> draw_token(const RankedRow& row, const DrawContext& context);
/// The same, or nothing when it is not among the ranked ones. Needs totals.
std::optional<Logprobs> log_probabilities(const RankedRow& row, std::uint32_t token,
                                          std::size_t top);

}  // namespace fulgur::attention
