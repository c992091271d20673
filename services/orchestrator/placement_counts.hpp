// How many replicas each layer and expert should have. Part of placement.hpp; nobody else needs it.
#pragma once

#include <cstdint>
#include <vector>

#include "services/orchestrator/placement_layout.hpp"

namespace fulgur::orchestrator {

struct ReplicaCounts {
  std::vector<std::uint32_t> counts;  ///< [layers, experts]
  /// What each layer's slowest slot needs at least with as many replicas. [layers]
  std::vector<double> layer_bound;
};

struct CountPlan {
  ReplicaCounts best;   ///< spare replicas where they shorten the sum of the layer bounds most
  ReplicaCounts equal;  ///< equally many replicas in every layer
  double bound = 1;     ///< lower bound of Balance::layer for every placement in the budget
};

/// Both spend the whole budget; in a layer, a spare replica goes to the expert with the most load a
/// replica.
CountPlan plan_counts(const PlacementProblem& problem);

/// Shifts replicas between experts of a layer where heaviest-first packing, tried on paper, then
/// makes its slowest slot faster: the counts that are best alone are not always those that pack
/// best. Layers within `target` of their bound stay as they are.
void refine_counts(const PlacementProblem& problem, double target, ReplicaCounts& counts);

}  // namespace fulgur::orchestrator
