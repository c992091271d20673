// Runs a workload through the ways to place and tells what came out, as a table or JSON.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "bench/placement/workload.hpp"

namespace fulgur::bench {

/// One way to place on one workload; means over its windows after the first.
struct Row {
  std::string workload;
  std::string way;  ///< "fulgur", "eplb", "eplb-flat", "static", …
  std::uint32_t workers = 0;
  double planned_layer = 1;  ///< Balance::layer on the load that was planned by
  double planned_total = 1;
  double next_layer = 1;  ///< on the window that came next; equal where the load stays
  double next_total = 1;
  double bound = 1;  ///< lower bound of planned_layer
  std::uint32_t windows = 0;
  std::uint32_t changes = 0;  ///< windows in which the placement changed
  double moves = 0;           ///< replicas loaded in a change, mean
  double moves_window = 0;    ///< replicas loaded in a window, mean
  double plan_ms = 0;         ///< mean of the times of the plans, the first included
  double plan_ms_max = 0;
};

/// Ours, ours from nothing each time, EPLB's global policy and the even placement.
std::vector<Row> run_workload(const Workload& workload);

std::string table_of(const std::vector<Row>& rows);
nlohmann::json json_of(const std::vector<Row>& rows);

}  // namespace fulgur::bench
