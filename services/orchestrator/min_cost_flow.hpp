// Minimum-cost flow on small graphs by successive shortest paths (Ahuja, Magnanti, Orlin, "Network
// Flows", 1993, section 9.7). Placement uses it to keep replicas where they are. Deterministic:
// the result depends on the order of add_edge calls and on nothing else.
#pragma once

#include <cstdint>
#include <vector>

namespace fulgur::orchestrator {

class MinCostFlow {
 public:
  explicit MinCostFlow(std::size_t nodes) : out_(nodes) {}

  /// Adds a directed edge; `cost` per unit is >= 0. Returns its index for flow().
  std::size_t add_edge(std::size_t from, std::size_t to, std::int64_t capacity, std::int64_t cost);

  /// Sends as much as possible from `source` to `sink`, at least cost. Returns the amount.
  std::int64_t run(std::size_t source, std::size_t sink);

  /// Units on edge `edge` after run().
  std::int64_t flow(std::size_t edge) const { return edges_[edge ^ 1].residual; }

 private:
  struct Edge {
    std::size_t to;
    std::int64_t residual;
    std::int64_t cost;
  };

  bool find_path(std::size_t source, std::size_t sink);

  std::vector<Edge> edges_;  ///< edge i and its reverse i ^ 1
  std::vector<std::vector<std::size_t>> out_;
  std::vector<std::int64_t> distance_;
  std::vector<std::size_t> via_;  ///< edge by which the shortest path enters a node
};

}  // namespace fulgur::orchestrator
