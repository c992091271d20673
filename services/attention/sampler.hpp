// From logits to a token. Pure functions of (logits, parameters, history, position): a token drawn
// again after a retry is the same token. Greedy ties go to the lower id.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "common/wire/messages.hpp"

namespace fulgur::attention {

/// What one draw needs to know about its sequence.
struct DrawContext {
  const wire::SamplingParams* params = nullptr;
  std::span<const std::uint32_t> tokens;  ///< prompt and generated so far
  std::uint32_t prompt_tokens = 0;
  std::span<const std::uint32_t> banned;  ///< never sampled
  std::span<const std::uint32_t> not_yet;  ///< not sampled at this position (min_new_tokens)
};

/// Draws the token for position tokens.size(). logits [vocab] float32 is overwritten.
std::uint32_t draw_token(std::span<float> logits, const DrawContext& context);

/// Natural log-probabilities of the unmodified distribution: of `token`, and of the `top` most
/// likely tokens (descending, ties to the lower id).
struct Logprobs {
  float chosen = 0;
  std::vector<wire::TokenLogprob> top;
};
Logprobs log_probabilities(std::span<const float> logits, std::uint32_t token, std::size_t top);

}  // namespace fulgur::attention
