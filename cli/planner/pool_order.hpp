// What an expert pool does with shards that are at different layers: it runs one layer at a time,
// for every micro-batch that waits for it, in some order of layers. Simulated, because whether
// shards come to meet at a layer, and share its weights, follows from that order. Pure and
// deterministic.
#pragma once

#include <cstdint>
#include <functional>

#include "cli/planner/pipeline.hpp"

namespace fulgur::planner {

enum class PoolOrder : std::uint8_t {
  arrival,       ///< the layer whose first micro-batch came first: what expert workers do
  most_waiting,  ///< the layer for which most micro-batches wait; of equals the first: not built
};

struct PoolRun {
  Pipeline shard;  ///< one shard's, two pools; `experts` of its stages are not used
  std::uint32_t shards = 1;
  PoolOrder order = PoolOrder::arrival;
  /// Seconds of a layer's run for that many micro-batches of shards.
  std::function<double(std::uint32_t)> experts;
};

/// Mean seconds of a step over all micro-batches, after a while. Shards start at layers drawn from
/// a fixed seed.
double apart_step_seconds(const PoolRun& run);

}  // namespace fulgur::planner
