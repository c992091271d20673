#include "bench/placement/workload.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "common/base/rng.hpp"

namespace fulgur::bench {
namespace {

constexpr std::uint32_t kTraceWindows = 128;
constexpr std::uint32_t kTraceWindowTokens = 2048;
constexpr ModelShape kTraceShape{8, 16};

constexpr std::array<std::uint16_t, std::size_t{kTraceWindows}* 8 * 16> kTrace = {
#include "bench/placement/data/fulgur_tiny_routing.inc"
};

/// Ranks of one layer's experts and the parts they get.
class ZipfLayer {
 public:
  ZipfLayer(std::uint32_t experts, double skew, Rng& rng) : ranks_(experts) {
    std::iota(ranks_.begin(), ranks_.end(), 0U);
    for (std::uint32_t i = experts; i > 1; --i) std::swap(ranks_[i - 1], ranks_[rng.below(i)]);
    for (std::uint32_t rank = 0; rank < experts; ++rank)
      parts_.push_back(std::pow(rank + 1.0, -skew));
    const double sum = std::accumulate(parts_.begin(), parts_.end(), 0.0);
    for (double& part : parts_) part /= sum;
  }
  void swap_neighbours(Rng& rng) {
    const auto rank = static_cast<std::uint32_t>(rng.below(ranks_.size() - 1));
    for (std::uint32_t& each : ranks_) {
      if (each == rank)
        each = rank + 1;
      else if (each == rank + 1)
        each = rank;
    }
  }
  double part(std::uint32_t expert) const { return parts_[ranks_[expert]]; }
  std::uint32_t draw(Rng& rng) const {
    double left = rng.uniform();
    for (std::uint32_t expert = 0; expert < ranks_.size(); ++expert) {
      left -= part(expert);
      if (left < 0) return expert;
    }
    return static_cast<std::uint32_t>(ranks_.size() - 1);
  }

 private:
  std::vector<std::uint32_t> ranks_;  ///< of each expert
  std::vector<double> parts_;         ///< of each rank
};

std::vector<ZipfLayer> zipf_layers(ModelShape shape, double skew, Rng& rng) {
  std::vector<ZipfLayer> layers;
  for (std::uint32_t layer = 0; layer < shape.layers; ++layer)
    layers.emplace_back(shape.experts, skew, rng);
  return layers;
}

std::uint32_t replicas_per_layer(const Workload& workload) {
  return static_cast<std::uint32_t>(workload.shape.experts * (1 + workload.spare) + 1e-9);
}

}  // namespace

Workload trace_workload(std::uint32_t workers, std::uint32_t tokens) {
  Workload workload{"trace", kTraceShape, workers, 0.25, {}};
  const std::uint32_t merged = tokens / kTraceWindowTokens;
  for (std::uint32_t window = 0; window + merged <= kTraceWindows; window += merged) {
    std::vector<double> load(kTraceShape.cells());
    for (std::size_t at = 0; at < merged * load.size(); ++at)
      load[at % load.size()] += kTrace[window * load.size() + at];
    workload.windows.push_back(std::move(load));
  }
  return workload;
}

Workload zipf_workload(ModelShape shape, std::uint32_t workers, double skew, std::uint64_t seed) {
  Workload workload{"zipf " + std::to_string(skew).substr(0, 4), shape, workers, 0.25, {{}}};
  Rng rng(seed);
  for (const ZipfLayer& layer : zipf_layers(shape, skew, rng))
    for (std::uint32_t expert = 0; expert < shape.experts; ++expert)
      workload.windows[0].push_back(1e6 * layer.part(expert));
  return workload;
}

Workload drift_workload(ModelShape shape, std::uint32_t workers, double skew, std::uint64_t seed,
                        std::uint32_t windows, std::uint32_t tokens, std::uint32_t swaps) {
  Workload workload{"drift " + std::to_string(skew).substr(0, 4), shape, workers, 0.25, {}};
  Rng rng(seed);
  auto layers = zipf_layers(shape, skew, rng);
  for (std::uint32_t window = 0; window < windows; ++window) {
    std::vector<double> load(shape.cells());
    for (std::uint32_t layer = 0; layer < shape.layers; ++layer) {
      for (std::uint32_t token = 0; token < tokens; ++token)
        load[std::size_t{layer} * shape.experts + layers[layer].draw(rng)] += 1;
      for (std::uint32_t swap = 0; swap < swaps; ++swap) layers[layer].swap_neighbours(rng);
    }
    workload.windows.push_back(std::move(load));
  }
  return workload;
}

Figures judge(const Workload& workload, const Replicas& replicas, const std::vector<double>& load) {
  std::vector<double> total(workload.workers);
  double slowest = 0;
  for (std::uint32_t layer = 0; layer < workload.shape.layers; ++layer) {
    std::vector<double> time(workload.workers);
    for (std::uint32_t expert = 0; expert < workload.shape.experts; ++expert) {
      const std::size_t cell = std::size_t{layer} * workload.shape.experts + expert;
      const double part = load[cell] / static_cast<double>(replicas[cell].size());
      for (const std::uint32_t worker : replicas[cell]) time[worker] += part;
    }
    slowest += *std::max_element(time.begin(), time.end());
    for (std::uint32_t worker = 0; worker < workload.workers; ++worker)
      total[worker] += time[worker];
  }
  const double mean = std::accumulate(load.begin(), load.end(), 0.0) / workload.workers;
  return {slowest / mean, *std::max_element(total.begin(), total.end()) / mean};
}

std::uint64_t moves_between(const Replicas& before, const Replicas& after) {
  std::uint64_t moves = 0;
  for (std::size_t cell = 0; cell < after.size(); ++cell) {
    std::vector<std::uint32_t> workers = after[cell];
    std::sort(workers.begin(), workers.end());
    workers.erase(std::unique(workers.begin(), workers.end()), workers.end());
    for (const std::uint32_t worker : workers)
      moves += std::count(before[cell].begin(), before[cell].end(), worker) == 0 ? 1 : 0;
  }
  return moves;
}

Replicas replicas_of(ModelShape shape, const std::vector<orchestrator::ReplicaMap>& assigned) {
  Replicas replicas(shape.cells());
  for (std::uint32_t worker = 0; worker < assigned.size(); ++worker)
    for (std::uint32_t layer = 0; layer < shape.layers; ++layer)
      for (std::uint32_t expert = 0; expert < shape.experts; ++expert)
        if (assigned[worker].contains(layer, expert))
          replicas[std::size_t{layer} * shape.experts + expert].push_back(worker);
  return replicas;
}

EplbPlan place_eplb(const Workload& workload, const std::vector<double>& load) {
  const std::uint32_t slots = replicas_per_layer(workload);
  if (auto placed = place_eplb(workload.shape, load, workload.workers, slots))
    return {*std::move(placed), true};
  const ModelShape one{1, static_cast<std::uint32_t>(workload.shape.cells())};
  // A multiple of the workers, in EPLB's favour.
  const std::uint32_t all = slots * workload.shape.layers;
  const std::uint32_t rounded = (all + workload.workers - 1) / workload.workers * workload.workers;
  return {*place_eplb(one, load, workload.workers, rounded), false};
}

orchestrator::PlacementInput input_of(const Workload& workload) {
  orchestrator::PlacementInput input;
  input.shape = workload.shape;
  input.replicas = 1;
  input.spare = workload.spare;
  const std::uint64_t all = std::uint64_t{replicas_per_layer(workload)} * workload.shape.layers;
  for (std::uint32_t worker = 0; worker < workload.workers; ++worker) {
    // Sorted by name as by number.
    const std::string number = std::to_string(1000 + worker).substr(1);
    input.workers.push_back({"expert-" + number, (all + workload.workers - 1) / workload.workers,
                             orchestrator::ReplicaMap(workload.shape)});
  }
  return input;
}

}  // namespace fulgur::bench
