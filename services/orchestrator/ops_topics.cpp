#include "services/orchestrator/ops_topics.hpp"

#include <fmt/ranges.h>

#include <cmath>
#include <nlohmann/json.hpp>

namespace fulgur::orchestrator {

std::string load_json(const Coordinator& coordinator) {
  const ModelShape shape = coordinator.epochs().shape();
  std::vector<std::int64_t> tokens;
  tokens.reserve(shape.cells());
  for (const double cell : coordinator.load().snapshot()) tokens.push_back(std::llround(cell));
  return fmt::format(R"({{"layers":{},"experts":{},"tokens":[{}]}})", shape.layers, shape.experts,
                     fmt::join(tokens, ","));
}

std::string placement_json(const Coordinator& coordinator) {
  const Epochs& epochs = coordinator.epochs();
  const ModelShape shape = epochs.shape();
  nlohmann::json workers = nlohmann::json::array();
  std::vector<std::vector<std::size_t>> holders(shape.cells());
  if (const auto placement = epochs.placement()) {
    for (const wire::WorkerEntry& worker : placement->workers) {
      for (std::uint64_t cell = 0; cell < shape.cells(); ++cell)
        if ((worker.replicas[cell / 64] >> (cell % 64) & 1) != 0)
          holders[cell].push_back(workers.size());
      workers.push_back(worker.name);
    }
  }
  std::string cells;
  if (!workers.empty())
    for (const auto& cell : holders)
      cells += fmt::format("{}[{}]", cells.empty() ? "" : ",", fmt::join(cell, ","));
  return fmt::format(R"({{"epoch":{},"layers":{},"experts":{},"workers":{},"holders":[{}]}})",
                     epochs.epoch(), shape.layers, shape.experts,
                     workers.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace), cells);
}

Topics ops_topics(const Coordinator& coordinator, const SelfDescription& self) {
  return {{"mesh", mesh_json(coordinator, self)},
          {"load", load_json(coordinator)},
          {"placement", placement_json(coordinator)}};
}

}  // namespace fulgur::orchestrator
