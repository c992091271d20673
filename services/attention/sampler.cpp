#include "services/attention/sampler.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <unordered_map>

#include "common/base/rng.hpp"

namespace fulgur::attention {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();

struct Candidate {
  float logit;
  std::uint32_t token;
};

bool more_likely(const Candidate& a, const Candidate& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.token < b.token;
}

std::uint32_t argmax(std::span<const float> logits) {
  const auto best = std::max_element(logits.begin(), logits.end());
  return static_cast<std::uint32_t>(best - logits.begin());
}

void apply_penalties(std::span<float> logits, const DrawContext& context) {
  const auto& params = *context.params;
  if (params.repetition_penalty != 1.0F) {
    std::vector<std::uint32_t> seen(context.tokens.begin(), context.tokens.end());
    std::sort(seen.begin(), seen.end());
    seen.erase(std::unique(seen.begin(), seen.end()), seen.end());
    for (const std::uint32_t token : seen) {
      if (token >= logits.size()) continue;
      float& logit = logits[token];
      logit = logit > 0 ? logit / params.repetition_penalty : logit * params.repetition_penalty;
    }
  }
  if (params.presence_penalty == 0.0F && params.frequency_penalty == 0.0F) return;
  std::unordered_map<std::uint32_t, std::uint32_t> counts;
  for (const std::uint32_t token : context.tokens.subspan(context.prompt_tokens)) ++counts[token];
  for (const auto& [token, count] : counts) {
    logits[token] -= params.presence_penalty + params.frequency_penalty * static_cast<float>(count);
  }
}

void apply_bans(std::span<float> logits, const DrawContext& context) {
  for (const auto& [token, bias] : context.params->logit_bias) {
    if (token < logits.size()) logits[token] += bias;
  }
  for (const std::uint32_t token : context.banned) logits[token] = kNever;
  for (const std::uint32_t token : context.not_yet) {
    if (token < logits.size()) logits[token] = kNever;
  }
}

/// Keeps the smallest set of most likely candidates whose probability reaches top_p.
void keep_top_p(std::vector<Candidate>& candidates, float top_p, float scale) {
  const float highest = candidates.front().logit;
  double total = 0;
  for (const auto& candidate : candidates) total += std::exp((candidate.logit - highest) * scale);
  double sum = 0;
  std::size_t kept = 0;
  while (kept < candidates.size() && sum < top_p * total) {
    sum += std::exp((candidates[kept++].logit - highest) * scale);
  }
  candidates.resize(std::max<std::size_t>(kept, 1));
}

std::uint32_t draw_from(const std::vector<Candidate>& candidates, float highest, float scale,
                        double uniform) {
  double total = 0;
  for (const auto& candidate : candidates) total += std::exp((candidate.logit - highest) * scale);
  double left = uniform * total;
  for (const auto& candidate : candidates) {
    left -= std::exp((candidate.logit - highest) * scale);
    if (left < 0) return candidate.token;
  }
  return candidates.back().token;
}

}  // namespace

std::uint32_t draw_token(std::span<float> logits, const DrawContext& context) {
  const auto& params = *context.params;
  apply_penalties(logits, context);
  apply_bans(logits, context);
  const std::uint32_t best = argmax(logits);
  if (params.temperature <= 0.0F || params.top_k == 1) return best;

  const float scale = 1.0F / params.temperature;
  const float highest = logits[best];
  // Candidates stay in id order unless a rank matters: min_p needs none.
  const float floor = params.min_p > 0 ? highest + std::log(params.min_p) * params.temperature : kNever;
  std::vector<Candidate> candidates;
  candidates.reserve(params.min_p > 0 ? 64 : logits.size());
  for (std::uint32_t token = 0; token < logits.size(); ++token) {
    if (logits[token] >= floor && logits[token] != kNever) candidates.push_back({logits[token], token});
  }
  const bool ranked = params.top_k > 0 || params.top_p < 1.0F;
  if (ranked) {
    const std::size_t k = params.top_k > 0 ? std::min<std::size_t>(params.top_k, candidates.size())
                                           : candidates.size();
    std::partial_sort(candidates.begin(), candidates.begin() + static_cast<std::ptrdiff_t>(k),
                      candidates.end(), more_likely);
    candidates.resize(k);
    if (params.top_p < 1.0F) keep_top_p(candidates, params.top_p, scale);
  }
  return draw_from(candidates, highest, scale, random_uniform(params.seed, context.tokens.size()));
}

Logprobs log_probabilities(std::span<const float> logits, std::uint32_t token, std::size_t top) {
  const float highest = logits[argmax(logits)];
  double total = 0;
  for (const float logit : logits) total += std::exp(static_cast<double>(logit - highest));
  const double log_total = std::log(total) + highest;
  const auto logprob = [&](float logit) { return static_cast<float>(logit - log_total); };
  Logprobs result;
  result.chosen = logprob(logits[token]);
  if (top == 0) return result;
  std::vector<Candidate> ranked(logits.size());
  for (std::uint32_t id = 0; id < logits.size(); ++id) ranked[id] = {logits[id], id};
  top = std::min(top, ranked.size());
  std::partial_sort(ranked.begin(), ranked.begin() + static_cast<std::ptrdiff_t>(top), ranked.end(),
                    more_likely);
  for (std::size_t i = 0; i < top; ++i) result.top.push_back({ranked[i].token, logprob(ranked[i].logit)});
  return result;
}

}  // namespace fulgur::attention
