// The search: every split of the devices, 1 to 4 micro-batches, as many sequences as memory and the
// time between tokens allow.
#pragma once

#include <string>
#include <vector>

#include "cli/planner/costs.hpp"
#include "cli/planner/memory_fit.hpp"

namespace fulgur::planner {

struct Plan {
  Split split;
  std::uint32_t micro_batches = 1;
  std::uint64_t sequences = 0;  ///< running, over all shards
  Rows rows;                    ///< of a shard's micro-batch
  MemoryFit memory;
  AttentionTimes lightning_attention, softmax_attention;
  StageTimes lightning, softmax;
  double head = 0;  ///< seconds
  double tpot = 0;  ///< seconds
  double tokens_per_s = 0;
  double tokens_per_s_alone = 0;  ///< when shards never meet in the expert pool
  /// Shards that start at different layers, by the order of layers in the pool; set for the best
  /// plan with two pools and several shards, else 0.
  double tokens_per_s_arrival = 0;
  double tokens_per_s_most_waiting = 0;
  Busy busy;                  ///< seconds of `tpot`
  bool memory_bound = false;  ///< memory, not the time between tokens, ended the batch

  double tokens_per_s_device() const { return tokens_per_s / split.devices(); }
};

struct Outcome {
  std::vector<Plan> plans;      ///< best of each split, the best first; colocated ones are not here
  std::vector<Plan> colocated;  ///< one or none
  std::string why_not;          ///< why `plans` is empty
  std::string why_not_colocated;  ///< why `colocated` is
  bool feasible() const { return !plans.empty() || !colocated.empty(); }
};

/// invalid_argument in one line when the request makes no sense: no devices, a context beyond the
/// model's, times that are not positive, a split that is larger than the devices.
Status check(const Request& request);

/// `request` passed check(). Deterministic.
Outcome make_plans(const Request& request);

/// Everything of a plan but its sequences, which are given; for predictions of a measured case.
Plan evaluate(const Request& request, const Split& split, const MemoryFit& memory,
              std::uint32_t micro_batches, std::uint64_t sequences);

}  // namespace fulgur::planner
