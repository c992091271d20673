// How many replicas each layer and expert should have. Part of placement.hpp; nobody else needs it.
#pragma once

#include <cstdint>
#include <vector>

#include "services/orchestrator/placement_layout.hpp"

namespace fulgur::orchestrator {

struct ReplicaCounts {
  std::vector<std::uint32_t> counts;  ///< [layers, experts]
  std::vector<std::uint32_t> equal;   ///< the same with equally many replicas in every layer
  /// A lower bound of each layer's slowest time, with the replicas this plan gives it. [layers]
  std::vector<double> layer_bound;
  /// Lower bound of Balance::layer for every placement within floor and budget.
  double bound = 1;
};

/// Spends the whole budget: spare replicas go to the layers where they shorten the slowest worker's
/// time most, in a layer to the expert with the most load a replica.
ReplicaCounts plan_counts(const PlacementProblem& problem);

}  // namespace fulgur::orchestrator
