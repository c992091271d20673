// The placement for a load nobody knows: equal replica counts, even per layer and in total, with
// the fewest moves. Part of placement.hpp; nobody else needs it.
#pragma once

#include "services/orchestrator/placement.hpp"

namespace fulgur::orchestrator {

/// Replicas `worker` may be given: its capacity, none when it is dead or draining.
std::uint64_t replica_limit(const PlacementWorker& worker, ModelShape shape);

/// `replicas` of every expert; the limits must have room for them. Fills assigned, replicas, moves.
PlacementPlan plan_even(ModelShape shape, std::uint32_t replicas,
                        const std::vector<PlacementWorker>& workers);

}  // namespace fulgur::orchestrator
