// Loads to place by: real routing of fulgur-tiny in windows, synthetic Zipf skews, and skews whose
// hot experts change. And the figures of a placement under a load.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "bench/placement/eplb.hpp"
#include "services/orchestrator/placement.hpp"

namespace fulgur::bench {

struct Workload {
  std::string name;
  ModelShape shape;
  std::uint32_t workers = 0;
  double spare = 0.25;
  /// [windows][layers, experts] tokens in the order of time; one window: a load that stays.
  std::vector<std::vector<double>> windows;
};

/// fulgur-tiny's routing, `tokens` (a multiple of 2,048) a window.
Workload trace_workload(std::uint32_t workers, std::uint32_t tokens);
/// Expert of rank r gets a part in proportion to r^-skew; ranks are shuffled in every layer.
Workload zipf_workload(ModelShape shape, std::uint32_t workers, double skew, std::uint64_t seed);
/// The same, sampled: each window counts `tokens` (token, slot) pairs a layer, and between windows
/// every layer swaps neighbouring ranks `swaps` times.
Workload drift_workload(ModelShape shape, std::uint32_t workers, double skew, std::uint64_t seed,
                        std::uint32_t windows, std::uint32_t tokens, std::uint32_t swaps);

/// Balance as in orchestrator::Balance for workers of equal speed, any replicas.
struct Figures {
  double layer = 1;
  double total = 1;
};
Figures judge(const Workload& workload, const Replicas& replicas, const std::vector<double>& load);
/// Replicas of `after` that are on another worker than any of `before`'s.
std::uint64_t moves_between(const Replicas& before, const Replicas& after);
Replicas replicas_of(ModelShape shape, const std::vector<orchestrator::ReplicaMap>& assigned);

/// EPLB for a workload: each layer for itself where its slots allow that, else the model as one
/// layer of all its experts (then only `total` is what it optimises). By-layer is told by the flag.
struct EplbPlan {
  Replicas replicas;
  bool by_layer = false;
};
EplbPlan place_eplb(const Workload& workload, const std::vector<double>& load);

/// The workload as the planner is asked with: every worker has room for its share, and no more.
orchestrator::PlacementInput input_of(const Workload& workload);

}  // namespace fulgur::bench
