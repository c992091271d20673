// Where expert replicas live: a pure function from workers to an assignment. Every expert gets the
// same number of replicas on distinct workers; counts are even per layer and in total as far as
// capacities allow; replicas stay where they are held when that costs no balance. The result does
// not depend on the order in which workers are given.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/base/status.hpp"
#include "services/orchestrator/replica_map.hpp"

namespace fulgur::orchestrator {

struct PlacementWorker {
  std::string name;
  std::uint64_t capacity = 0;  ///< replicas it may hold
  ReplicaMap held;             ///< what it holds now, of the model's shape
};

struct PlacementPlan {
  std::vector<ReplicaMap> assigned;  ///< for each worker, in the order given
  std::uint32_t replicas = 0;        ///< of every expert
  std::uint64_t moves = 0;           ///< replicas that must be loaded somewhere
  std::string shortfall;             ///< why replicas < wanted; empty when it is not
};

/// resource_exhausted, saying how much is missing, when some expert would have no replica.
Result<PlacementPlan> plan_placement(ModelShape shape, std::uint32_t replicas_wanted,
                                     const std::vector<PlacementWorker>& workers);

}  // namespace fulgur::orchestrator
