#include "cli/planner/expert_spread.hpp"

#include <algorithm>
#include <cmath>

namespace fulgur::planner {
namespace {

/// Mean of the largest of `groups` binomial (count, share) numbers: sum of P(largest > x).
double mean_largest(std::uint32_t count, double share, double groups) {
  if (share >= 1) return count;
  double probability = std::pow(1 - share, count);  // of x successes, from x = 0
  double below = 0;                                 // P(number <= x)
  double mean = 0;
  for (std::uint32_t x = 0; x < count; ++x) {
    below = std::min(1.0, below + probability);
    mean += 1 - std::pow(below, groups);
    probability *= (count - x) / (x + 1.0) * share / (1 - share);
  }
  return mean;
}

}  // namespace

double touched_share(std::uint32_t experts, std::uint32_t top, double tokens) {
  return 1 - std::pow(1 - static_cast<double>(top) / experts, tokens);
}

ExpertSpread spread_experts(std::uint32_t experts, std::uint32_t top, double tokens,
                            std::uint32_t workers, double copies) {
  const double share = touched_share(experts, top, tokens);
  const double touched = experts * share;
  ExpertSpread spread;
  spread.rows = tokens * top / touched;
  if (copies >= workers) {
    spread.touched = std::max(1.0, touched / workers);
    return spread;
  }
  const std::uint32_t own = (experts + workers - 1) / workers;
  spread.touched = std::max(1.0, mean_largest(own, share, static_cast<double>(experts) / own));
  if (workers > experts) {
    const double divided = std::floor(std::min(copies, static_cast<double>(workers) / experts));
    spread.rows = std::max(1.0, spread.rows / std::max(1.0, divided));
  }
  return spread;
}

}  // namespace fulgur::planner
