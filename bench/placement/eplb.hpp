// The global policy of EPLB (the expert load balancer published with DeepSeek-V3), written from its
// description, to compare with: each layer for itself, the most loaded expert is replicated until
// the slots are used up; then replicas, heaviest first, go to the GPU with the least load that
// still has a slot. Every GPU has the same number of slots in every layer. What it lacks on
// purpose: distinct GPUs for replicas of one expert, any regard for what was placed before.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "services/orchestrator/replica_map.hpp"

namespace fulgur::bench {

using orchestrator::ModelShape;

/// Workers of every replica: [layers, experts] -> workers, one twice where a GPU got two replicas.
using Replicas = std::vector<std::vector<std::uint32_t>>;

/// `load` [layers, experts]; nothing where `replicas_per_layer` is no multiple of `workers`.
std::optional<Replicas> place_eplb(ModelShape shape, const std::vector<double>& load,
                                   std::uint32_t workers, std::uint32_t replicas_per_layer);

}  // namespace fulgur::bench
