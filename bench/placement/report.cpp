#include "bench/placement/report.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <functional>
#include <nlohmann/json.hpp>

#include "common/base/assert.hpp"
#include "common/base/clock.hpp"
#include "services/orchestrator/load_history.hpp"

namespace fulgur::bench {
namespace {

using orchestrator::LoadHistory;
using orchestrator::PlacementInput;
using orchestrator::ReplicaMap;

/// hidden 6,144 x 9,216, three matrices, two bytes a weight.
constexpr double kM1ExpertBytes = 3.0 * 6144 * 9216 * 2;

/// A way to place: from the load so far to where replicas are.
struct Way {
  std::string name;
  std::function<Replicas(const std::vector<double>& load)> place;
};

PlacementInput with_load(const Workload& workload, const std::vector<double>& load) {
  PlacementInput input = input_of(workload);
  input.load = load;
  return input;
}

orchestrator::PlacementPlan plan(const PlacementInput& input) {
  auto planned = plan_placement(input);
  FULGUR_ASSERT(planned.is_ok(), "a workload that fits is placed");
  return *std::move(planned);
}

std::vector<Way> ways_of(const Workload& workload) {
  std::vector<Way> ways;
  ways.push_back({"fulgur", [input = input_of(workload)](const std::vector<double>& load) mutable {
                    input.load = load;
                    const auto planned = plan(input);
                    for (std::size_t i = 0; i < input.workers.size(); ++i)
                      input.workers[i].held = planned.assigned[i];
                    return replicas_of(input.shape, planned.assigned);
                  }});
  ways.push_back({"fulgur anew", [&workload](const std::vector<double>& load) {
                    return replicas_of(workload.shape, plan(with_load(workload, load)).assigned);
                  }});
  const bool by_layer = place_eplb(workload, workload.windows[0]).by_layer;
  ways.push_back(
      {by_layer ? "eplb global" : "eplb one layer", [&workload](const std::vector<double>& load) {
         return place_eplb(workload, load).replicas;
       }});
  ways.push_back({"static", [&workload](const std::vector<double>&) {
                    return replicas_of(workload.shape, plan(input_of(workload)).assigned);
                  }});
  return ways;
}

/// What heartbeats would have told by the end of a window.
std::vector<std::vector<double>> histories(const Workload& workload) {
  const ManualClock clock;
  double window_tokens = 0;
  for (const double tokens : workload.windows[0]) window_tokens += tokens;
  window_tokens /= workload.shape.layers;
  LoadHistory history(workload.shape, {2 * window_tokens, 0}, clock);
  std::vector<std::vector<double>> loads;
  for (const auto& window : workload.windows) {
    std::vector<wire::ExpertTokens> increments;
    for (std::size_t cell = 0; cell < window.size(); ++cell)
      increments.push_back({static_cast<std::uint16_t>(cell / workload.shape.experts),
                            static_cast<std::uint16_t>(cell % workload.shape.experts),
                            static_cast<std::uint64_t>(window[cell])});
    history.add(increments);
    loads.push_back(history.snapshot());
  }
  return loads;
}

Row run_way(const Workload& workload, const Way& way, const std::vector<std::vector<double>>& loads,
            const std::vector<double>& bounds) {
  Row row{workload.name, way.name, workload.workers};
  row.planned_layer = row.planned_total = row.next_layer = row.next_total = row.bound = 0;
  const RealClock clock;
  Replicas placed;
  double time_ms = 0;
  const std::size_t plans = std::max<std::size_t>(loads.size() - 1, 1);
  const std::size_t first = plans > 1 ? 1 : 0;  // the first plan places from nothing
  std::uint64_t moves = 0;
  for (std::size_t at = 0; at < plans; ++at) {
    const Nanoseconds started = clock.now();
    Replicas next = way.place(loads[at]);
    const double ms = static_cast<double>(clock.now() - started) / kMillisecond;
    time_ms += ms;
    row.plan_ms_max = std::max(row.plan_ms_max, ms);
    if (at >= first) {
      const std::uint64_t moved = at > 0 ? moves_between(placed, next) : 0;
      moves += moved;
      row.changes += moved > 0 ? 1 : 0;
      const Figures planned = judge(workload, next, loads[at]);
      const Figures later =
          judge(workload, next, workload.windows[std::min(at + 1, loads.size() - 1)]);
      row.planned_layer += planned.layer;
      row.planned_total += planned.total;
      row.next_layer += later.layer;
      row.next_total += later.total;
      row.bound += bounds[at];
      ++row.windows;
    }
    placed = std::move(next);
  }
  for (double* const sum :
       {&row.planned_layer, &row.planned_total, &row.next_layer, &row.next_total, &row.bound})
    *sum /= row.windows;
  row.moves = row.changes > 0 ? static_cast<double>(moves) / row.changes : 0;
  row.moves_window = static_cast<double>(moves) / row.windows;
  row.plan_ms = time_ms / static_cast<double>(plans);
  return row;
}

}  // namespace

std::vector<Row> run_workload(const Workload& workload) {
  const auto loads = histories(workload);
  std::vector<double> bounds;
  for (const auto& load : loads)
    bounds.push_back(plan(with_load(workload, load)).after.layer_bound);
  std::vector<Row> rows;
  for (const Way& way : ways_of(workload)) rows.push_back(run_way(workload, way, loads, bounds));
  return rows;
}

std::string table_of(const std::vector<Row>& rows) {
  std::string text = fmt::format(
      "{:<12} {:>7} {:<15} {:>7} {:>7} {:>7} {:>7} {:>7} {:>8} {:>9} {:>10} {:>8} {:>8}\n", "load",
      "workers", "placed by", "layer", "bound", "total", "next", "next", "changes", "moves a",
      "GiB a", "plan", "worst");
  text += fmt::format(
      "{:<12} {:>7} {:<15} {:>7} {:>7} {:>7} {:>7} {:>7} {:>8} {:>9} {:>10} {:>8} {:>8}\n", "", "",
      "", "", "", "", "layer", "total", "", "change", "change", "ms", "ms");
  std::string last;
  for (const Row& row : rows) {
    const std::string group = row.workload + std::to_string(row.workers);
    if (!last.empty() && last != group) text += '\n';
    last = group;
    const bool stays = row.windows == 1;
    text += fmt::format(
        "{:<12} {:>7} {:<15} {:>7.4f} {:>7.4f} {:>7.4f} {:>7} {:>7} {:>8} {:>9} {:>10} {:>8.2f} "
        "{:>8.2f}\n",
        row.workload, row.workers, row.way, row.planned_layer, row.bound, row.planned_total,
        stays ? "-" : fmt::format("{:.4f}", row.next_layer),
        stays ? "-" : fmt::format("{:.4f}", row.next_total),
        stays ? "-" : fmt::format("{}/{}", row.changes, row.windows),
        stays ? "-" : fmt::format("{:.1f}", row.moves),
        stays ? "-" : fmt::format("{:.1f}", row.moves * kM1ExpertBytes / (1 << 30)), row.plan_ms,
        row.plan_ms_max);
  }
  return text;
}

nlohmann::json json_of(const std::vector<Row>& rows) {
  nlohmann::json list = nlohmann::json::array();
  for (const Row& row : rows)
    list.push_back({{"load", row.workload},
                    {"workers", row.workers},
                    {"placed_by", row.way},
                    {"layer_max_over_mean", row.planned_layer},
                    {"layer_lower_bound", row.bound},
                    {"total_max_over_mean", row.planned_total},
                    {"next_layer_max_over_mean", row.next_layer},
                    {"next_total_max_over_mean", row.next_total},
                    {"windows", row.windows},
                    {"changes", row.changes},
                    {"moves_per_change", row.moves},
                    {"moves_per_window", row.moves_window},
                    {"m1_bytes_per_change", row.moves * kM1ExpertBytes},
                    {"m1_bytes_per_window", row.moves_window * kM1ExpertBytes},
                    {"plan_ms", row.plan_ms},
                    {"plan_ms_max", row.plan_ms_max}});
  return list;
}

}  // namespace fulgur::bench
