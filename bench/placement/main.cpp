// fulgur-bench-placement: how evenly, with how few moves and how fast experts are placed by load,
// beside EPLB's global policy, placing anew each time, and equal counts that never change.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "bench/placement/report.hpp"

namespace {

using namespace fulgur::bench;

constexpr ModelShape kM1{80, 32};

std::vector<Workload> all_workloads() {
  std::vector<Workload> workloads;
  // 20 replicas a layer on 4, 5 and 10 workers.
  for (const std::uint32_t workers : {4U, 5U, 10U})
    workloads.push_back(trace_workload(workers, 262'144));
  // 40 replicas a layer.
  for (const std::uint32_t workers : {8U, 10U, 64U})
    for (const double skew : {0.5, 0.75, 1.0, 1.25, 1.5})
      workloads.push_back(zipf_workload(kM1, workers, skew, 1));
  for (const std::uint32_t workers : {4U, 5U, 10U})
    workloads.push_back(trace_workload(workers, 16'384));
  for (const double skew : {0.5, 1.0, 1.5})
    workloads.push_back(drift_workload(kM1, 8, skew, 1, 24, 65'536, 2));
  workloads.push_back(drift_workload(kM1, 64, 1.0, 1, 24, 65'536, 2));
  return workloads;
}

constexpr const char* kLegend =
    "Spare replicas: 25 %. Each replica gets an equal part of its expert's tokens.\n"
    "layer: time of each layer's slowest worker, summed over layers, over the mean worker's\n"
    "bound: what no placement of as many replicas can be below\n"
    "total: tokens of the busiest worker in all layers together, over the mean\n"
    "next:  the same under the window after the one planned by (LoadHistory, half-life 2 windows)\n"
    "GiB:   moved replicas times 324 MiB, an expert of MiniMax-M1 in bf16\n";

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("Placement by load: balance, moves and planning time");
  bool as_json = false;
  std::string only;
  app.add_flag("--json", as_json, "print JSON instead of a table");
  app.add_option("--load", only, "only loads whose name begins so: trace, zipf, drift");
  CLI11_PARSE(app, argc, argv);
  std::vector<Row> rows;
  for (const Workload& workload : all_workloads()) {
    if (workload.name.rfind(only, 0) != 0) continue;
    const auto some = run_workload(workload);
    rows.insert(rows.end(), some.begin(), some.end());
  }
  if (as_json)
    std::printf("%s\n", json_of(rows).dump(2).c_str());
  else
    std::printf("%s\n%s", kLegend, table_of(rows).c_str());
  return rows.empty() ? 2 : 0;
}
