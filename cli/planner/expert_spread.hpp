// How a layer's experts fall onto tokens and workers when routing is uniform. Pure arithmetic.
#pragma once

#include <cstdint>

namespace fulgur::planner {

struct ExpertSpread {
  double touched = 0;  ///< experts of one layer that the busiest worker runs, on average
  double rows = 0;     ///< rows of each of them
};

/// Probability that none of `tokens` tokens chose an expert is (1 - top / experts)^tokens.
double touched_share(std::uint32_t experts, std::uint32_t top, double tokens);

/// `copies`: replicas of every expert over all workers, at least 1. With as many as workers any
/// worker can run any expert and the touched ones are divided evenly. With fewer, a worker has
/// ceil(experts / workers) of the layer and the busiest of all counts, its number of touched ones
/// taken as binomial and independent of the others'. Beyond one expert a worker, more workers
/// divide an expert's rows as far as copies allow.
ExpertSpread spread_experts(std::uint32_t experts, std::uint32_t top, double tokens,
                            std::uint32_t workers, double copies);

}  // namespace fulgur::planner
