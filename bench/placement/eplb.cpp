#include "bench/placement/eplb.hpp"

#include <algorithm>
#include <numeric>

namespace fulgur::bench {
namespace {

std::vector<std::uint32_t> replicate(const double* load, std::uint32_t experts,
                                     std::uint32_t replicas) {
  std::vector<std::uint32_t> counts(experts, 1);
  for (std::uint32_t placed = experts; placed < replicas; ++placed) {
    std::uint32_t hottest = 0;
    for (std::uint32_t expert = 1; expert < experts; ++expert)
      if (load[expert] / counts[expert] > load[hottest] / counts[hottest]) hottest = expert;
    ++counts[hottest];
  }
  return counts;
}

void pack_layer(const double* load, const std::vector<std::uint32_t>& counts, std::uint32_t workers,
                std::vector<std::uint32_t>* placed) {
  std::vector<std::uint32_t> items;
  for (std::uint32_t expert = 0; expert < counts.size(); ++expert)
    items.insert(items.end(), counts[expert], expert);
  std::stable_sort(items.begin(), items.end(), [&](std::uint32_t a, std::uint32_t b) {
    return load[a] / counts[a] > load[b] / counts[b];
  });
  const std::size_t slots = items.size() / workers;
  std::vector<double> loads(workers);
  std::vector<std::size_t> used(workers);
  for (const std::uint32_t expert : items) {
    std::uint32_t best = workers;
    for (std::uint32_t worker = 0; worker < workers; ++worker)
      if (used[worker] < slots && (best == workers || loads[worker] < loads[best])) best = worker;
    ++used[best];
    loads[best] += load[expert] / counts[expert];
    placed[expert].push_back(best);
  }
}

}  // namespace

std::optional<Replicas> place_eplb(ModelShape shape, const std::vector<double>& load,
                                   std::uint32_t workers, std::uint32_t replicas_per_layer) {
  if (replicas_per_layer % workers != 0 || replicas_per_layer < shape.experts) return std::nullopt;
  Replicas placed(shape.cells());
  for (std::uint32_t layer = 0; layer < shape.layers; ++layer) {
    const std::size_t first = std::size_t{layer} * shape.experts;
    const auto counts = replicate(&load[first], shape.experts, replicas_per_layer);
    pack_layer(&load[first], counts, workers, &placed[first]);
  }
  return placed;
}

}  // namespace fulgur::bench
