// Three exact steps: total quota of each worker (water-filling under its capacity), quota per layer
// (a 0/1 matrix with given row and column sums), experts of a layer to workers (a
// degree-constrained bipartite matching). The last two are minimum-cost flows whose cost is the
// number of moved replicas, with a hash of names as tie-break so that replicas of a worker's
// experts spread over all others and its load does too when it dies.
#include "services/orchestrator/placement_even.hpp"

#include <algorithm>
#include <numeric>

#include "common/base/rng.hpp"
#include "services/orchestrator/min_cost_flow.hpp"

namespace fulgur::orchestrator {
namespace {

constexpr std::int64_t kMoveCost = 1 << 20;  // above any sum of tie-breaks along one path
constexpr std::uint64_t kTieMask = 63;

std::uint64_t hash_name(const std::string& name) {
  std::uint64_t hash = 0;
  for (const char c : name) hash = mix64(hash ^ static_cast<unsigned char>(c));
  return hash;
}

class EvenPlanner {
 public:
  EvenPlanner(ModelShape shape, const std::vector<PlacementWorker>& workers)
      : shape_(shape), workers_(workers), order_(workers.size()) {
    std::iota(order_.begin(), order_.end(), std::size_t{0});
    std::sort(order_.begin(), order_.end(),
              [&](std::size_t a, std::size_t b) { return workers_[a].name < workers_[b].name; });
  }

  PlacementPlan plan(std::uint32_t replicas);

 private:
  const PlacementWorker& worker(std::size_t slot) const { return workers_[order_[slot]]; }
  std::uint64_t limit(std::size_t slot) const { return replica_limit(worker(slot), shape_); }
  std::vector<std::uint64_t> worker_quotas(std::uint64_t replicas) const;
  std::vector<std::vector<std::uint32_t>> layer_quotas(const std::vector<std::uint64_t>& totals,
                                                       std::uint32_t replicas) const;
  void match_layer(std::uint32_t layer, std::uint32_t replicas,
                   const std::vector<std::uint32_t>& quotas, PlacementPlan& plan) const;

  ModelShape shape_;
  const std::vector<PlacementWorker>& workers_;
  std::vector<std::size_t> order_;  ///< by name: slot -> index in workers_
};

// Everybody gets the same level, or less where the capacity ends below it. What rounding leaves too
// much is taken from workers that hold least.
std::vector<std::uint64_t> EvenPlanner::worker_quotas(std::uint64_t total) const {
  const auto filled = [&](std::uint64_t level) {
    std::uint64_t sum = 0;
    for (std::size_t slot = 0; slot < order_.size(); ++slot) sum += std::min(limit(slot), level);
    return sum;
  };
  std::uint64_t low = 0;
  std::uint64_t high = shape_.cells();
  while (low < high) {
    const std::uint64_t middle = (low + high) / 2;
    if (filled(middle) >= total)
      high = middle;
    else
      low = middle + 1;
  }
  std::vector<std::uint64_t> quotas(order_.size());
  std::vector<std::size_t> at_level;
  for (std::size_t slot = 0; slot < order_.size(); ++slot) {
    quotas[slot] = std::min(limit(slot), low);
    if (quotas[slot] == low) at_level.push_back(slot);
  }
  std::stable_sort(at_level.begin(), at_level.end(), [&](std::size_t a, std::size_t b) {
    return worker(a).held.count() < worker(b).held.count();
  });
  const std::uint64_t excess = filled(low) - total;
  for (std::uint64_t i = 0; i < excess; ++i) --quotas[at_level[i]];
  return quotas;
}

// Worker w gets totals[w] / layers in every layer and one more in totals[w] % layers of them. Each
// layer needs the same number of such extras, so the matrix exists.
std::vector<std::vector<std::uint32_t>> EvenPlanner::layer_quotas(
    const std::vector<std::uint64_t>& totals, std::uint32_t replicas) const {
  const std::size_t count = order_.size();
  std::vector<std::vector<std::uint32_t>> quotas(shape_.layers, std::vector<std::uint32_t>(count));
  std::uint64_t extras = std::uint64_t{shape_.experts} * replicas;
  MinCostFlow flow(2 + count + shape_.layers);
  for (std::size_t slot = 0; slot < count; ++slot) {
    extras -= totals[slot] / shape_.layers;
    flow.add_edge(0, 2 + slot, static_cast<std::int64_t>(totals[slot] % shape_.layers), 0);
  }
  for (std::uint32_t layer = 0; layer < shape_.layers; ++layer)
    flow.add_edge(2 + count + layer, 1, static_cast<std::int64_t>(extras), 0);
  std::vector<std::size_t> edge(shape_.layers * count);
  for (std::size_t slot = 0; slot < count; ++slot) {
    const std::uint64_t base = totals[slot] / shape_.layers;
    const std::uint64_t salt = hash_name(worker(slot).name);
    for (std::uint32_t layer = 0; layer < shape_.layers; ++layer) {
      const bool keeps = worker(slot).held.count_in_layer(layer) > base;
      const auto tie = static_cast<std::int64_t>(random_bits(salt, layer) & kTieMask);
      edge[layer * count + slot] =
          flow.add_edge(2 + slot, 2 + count + layer, 1, (keeps ? 0 : kMoveCost) + tie);
    }
  }
  flow.run(0, 1);
  for (std::uint32_t layer = 0; layer < shape_.layers; ++layer)
    for (std::size_t slot = 0; slot < count; ++slot)
      quotas[layer][slot] = static_cast<std::uint32_t>(
          totals[slot] / shape_.layers +
          static_cast<std::uint64_t>(flow.flow(edge[layer * count + slot])));
  return quotas;
}

void EvenPlanner::match_layer(std::uint32_t layer, std::uint32_t replicas,
                              const std::vector<std::uint32_t>& quotas, PlacementPlan& plan) const {
  const std::size_t count = order_.size();
  MinCostFlow flow(2 + count + shape_.experts);
  for (std::size_t slot = 0; slot < count; ++slot) flow.add_edge(2 + slot, 1, quotas[slot], 0);
  for (std::uint32_t expert = 0; expert < shape_.experts; ++expert)
    flow.add_edge(0, 2 + count + expert, replicas, 0);
  std::vector<std::size_t> edge(shape_.experts * count);
  for (std::size_t slot = 0; slot < count; ++slot) {
    const std::uint64_t salt = hash_name(worker(slot).name) ^ layer;
    for (std::uint32_t expert = 0; expert < shape_.experts; ++expert) {
      const bool keeps = worker(slot).held.contains(layer, expert);
      const auto tie = static_cast<std::int64_t>(random_bits(salt, expert) & kTieMask);
      edge[expert * count + slot] =
          flow.add_edge(2 + count + expert, 2 + slot, 1, (keeps ? 0 : kMoveCost) + tie);
    }
  }
  const std::int64_t placed = flow.run(0, 1);
  FULGUR_ASSERT(placed == std::int64_t{shape_.experts} * replicas, "quotas do not fit the layer");
  for (std::uint32_t expert = 0; expert < shape_.experts; ++expert)
    for (std::size_t slot = 0; slot < count; ++slot)
      if (flow.flow(edge[expert * count + slot]) > 0)
        plan.assigned[order_[slot]].add(layer, expert);
}

PlacementPlan EvenPlanner::plan(std::uint32_t replicas) {
  PlacementPlan plan;
  plan.replicas = replicas;
  plan.assigned.assign(workers_.size(), ReplicaMap(shape_));
  const auto quotas = layer_quotas(worker_quotas(shape_.cells() * replicas), replicas);
  for (std::uint32_t layer = 0; layer < shape_.layers; ++layer)
    match_layer(layer, replicas, quotas[layer], plan);
  for (std::size_t i = 0; i < workers_.size(); ++i)
    plan.moves += plan.assigned[i].count_missing_in(workers_[i].held);
  return plan;
}

}  // namespace

std::uint64_t replica_limit(const PlacementWorker& worker, ModelShape shape) {
  return worker.alive && !worker.draining ? std::min(worker.capacity, shape.cells()) : 0;
}

PlacementPlan plan_even(ModelShape shape, std::uint32_t replicas,
                        const std::vector<PlacementWorker>& workers) {
  return EvenPlanner(shape, workers).plan(replicas);
}

}  // namespace fulgur::orchestrator
