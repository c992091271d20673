#include "services/orchestrator/min_cost_flow.hpp"

#include <algorithm>
#include <deque>
#include <limits>

namespace fulgur::orchestrator {
namespace {
constexpr std::int64_t kUnreached = std::numeric_limits<std::int64_t>::max();
}

std::size_t MinCostFlow::add_edge(std::size_t from, std::size_t to, std::int64_t capacity,
                                  std::int64_t cost) {
  const std::size_t index = edges_.size();
  edges_.push_back({to, capacity, cost});
  edges_.push_back({from, 0, -cost});
  out_[from].push_back(index);
  out_[to].push_back(index + 1);
  return index;
}

// Bellman-Ford with a queue: residual edges have negative costs, and the graphs are small.
bool MinCostFlow::find_path(std::size_t source, std::size_t sink) {
  distance_.assign(out_.size(), kUnreached);
  via_.assign(out_.size(), 0);
  std::vector<bool> queued(out_.size(), false);
  std::deque<std::size_t> queue{source};
  distance_[source] = 0;
  while (!queue.empty()) {
    const std::size_t node = queue.front();
    queue.pop_front();
    queued[node] = false;
    for (const std::size_t index : out_[node]) {
      const Edge& edge = edges_[index];
      if (edge.residual == 0 || distance_[node] + edge.cost >= distance_[edge.to]) continue;
      distance_[edge.to] = distance_[node] + edge.cost;
      via_[edge.to] = index;
      if (queued[edge.to]) continue;
      queued[edge.to] = true;
      queue.push_back(edge.to);
    }
  }
  return distance_[sink] != kUnreached;
}

std::int64_t MinCostFlow::run(std::size_t source, std::size_t sink) {
  std::int64_t total = 0;
  while (find_path(source, sink)) {
    std::int64_t amount = kUnreached;
    for (std::size_t node = sink; node != source; node = edges_[via_[node] ^ 1].to)
      amount = std::min(amount, edges_[via_[node]].residual);
    for (std::size_t node = sink; node != source; node = edges_[via_[node] ^ 1].to) {
      edges_[via_[node]].residual -= amount;
      edges_[via_[node] ^ 1].residual += amount;
    }
    total += amount;
  }
  return total;
}

}  // namespace fulgur::orchestrator
