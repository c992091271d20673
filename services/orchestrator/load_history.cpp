#include "services/orchestrator/load_history.hpp"

#include <cmath>
#include <numeric>

namespace fulgur::orchestrator {

void LoadHistory::add(std::span<const wire::ExpertTokens> increments) {
  double arrived = 0;
  for (const wire::ExpertTokens& entry : increments)
    if (entry.layer < shape_.layers && entry.expert < shape_.experts)
      arrived += static_cast<double>(entry.tokens);
  double factor = age_factor();
  decayed_at_ = clock_.now();
  if (options_.half_life_tokens > 0)
    factor *= std::exp2(-arrived / shape_.layers / options_.half_life_tokens);
  decay(factor);
  for (const wire::ExpertTokens& entry : increments)
    if (entry.layer < shape_.layers && entry.expert < shape_.experts)
      tokens_[std::size_t{entry.layer} * shape_.experts + entry.expert] +=
          static_cast<double>(entry.tokens);
}

std::vector<double> LoadHistory::snapshot() const {
  std::vector<double> now = tokens_;
  const double factor = age_factor();
  for (double& tokens : now) tokens *= factor;
  return now;
}

double LoadHistory::tokens_per_layer() const {
  return std::accumulate(tokens_.begin(), tokens_.end(), 0.0) * age_factor() / shape_.layers;
}

void LoadHistory::decay(double factor) {
  if (factor == 1.0) return;
  for (double& tokens : tokens_) tokens *= factor;
}

double LoadHistory::age_factor() const {
  if (options_.half_life <= 0) return 1.0;
  return std::exp2(-static_cast<double>(clock_.now() - decayed_at_) /
                   static_cast<double>(options_.half_life));
}

}  // namespace fulgur::orchestrator
