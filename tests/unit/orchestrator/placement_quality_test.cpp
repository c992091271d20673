// How good placement by load is, on real routing and synthetic skews: near the bound, never worse
// than EPLB's global policy, and with a third of the moves of placing anew at most.
#include <gtest/gtest.h>

#include "bench/placement/workload.hpp"
#include "services/orchestrator/placement.hpp"

namespace fulgur::bench {
namespace {

using orchestrator::PlacementInput;
using orchestrator::PlacementPlan;

PlacementPlan plan(const PlacementInput& input) {
  auto planned = plan_placement(input);
  EXPECT_TRUE(planned.is_ok()) << planned.status().message();
  return *planned;
}

struct Quality {
  Figures ours;
  Figures eplb;
  bool by_layer = false;
  double bound = 1;
};

Quality place(const Workload& workload) {
  PlacementInput input = input_of(workload);
  input.load = workload.windows.front();
  const PlacementPlan planned = plan(input);
  const EplbPlan eplb = place_eplb(workload, input.load);
  const Figures ours = judge(workload, replicas_of(workload.shape, planned.assigned), input.load);
  EXPECT_NEAR(ours.layer, planned.after.layer, 1e-9);
  EXPECT_NEAR(ours.total, planned.after.total, 1e-9);
  return {ours, judge(workload, eplb.replicas, input.load), eplb.by_layer,
          planned.after.layer_bound};
}

TEST(PlacementQuality, IsNeverWorseThanEplbAndNearTheBound) {
  std::vector<Workload> workloads;
  for (const std::uint32_t workers : {2U, 4U, 5U, 10U})
    workloads.push_back(trace_workload(workers, 262'144));
  for (const double skew : {0.5, 0.75, 1.0, 1.25, 1.5})
    for (const std::uint32_t workers : {4U, 5U, 8U, 10U, 20U, 40U})
      workloads.push_back(zipf_workload({8, 32}, workers, skew, 3));
  for (const Workload& workload : workloads) {
    SCOPED_TRACE(workload.name + " on " + std::to_string(workload.workers));
    const Quality quality = place(workload);
    ASSERT_TRUE(quality.by_layer);
    // 0.2 % is where the search stops.
    EXPECT_LE(quality.ours.layer, std::max(quality.eplb.layer, 1.002) + 1e-9);
    EXPECT_LE(quality.ours.total, std::max(quality.eplb.total, 1.002) + 1e-9);
    EXPECT_GE(quality.ours.layer, quality.bound - 1e-9);
    // Four replicas a layer and worker at least: room enough to be even.
    if (workload.workers <= 5 || (workload.shape.experts == 32 && workload.workers <= 10)) {
      EXPECT_LE(quality.ours.layer, 1.05);
    }
  }
}

TEST(PlacementQuality, MoreWorkersThanReplicasOfALayer) {
  for (const double skew : {0.5, 1.0, 1.5}) {
    const Quality quality = place(zipf_workload({80, 32}, 64, skew, 1));
    EXPECT_FALSE(quality.by_layer);
    EXPECT_LE(quality.ours.layer, 1.005 * quality.bound);
    EXPECT_LE(quality.ours.total, 1.005);
    EXPECT_LT(quality.ours.layer, quality.eplb.layer);
  }
}

TEST(PlacementQuality, FollowsADriftWithAThirdOfTheMoves) {
  for (const Workload& workload : {trace_workload(4, 16'384), trace_workload(10, 16'384),
                                   drift_workload({8, 32}, 8, 1.0, 1, 12, 65'536, 2)}) {
    SCOPED_TRACE(workload.name + " on " + std::to_string(workload.workers));
    PlacementInput input = input_of(workload);
    Replicas eplb;
    std::uint64_t moves = 0;
    std::uint64_t eplb_moves = 0;
    input.load.resize(workload.shape.cells());
    for (std::size_t at = 0; at < workload.windows.size(); ++at) {
      for (std::size_t cell = 0; cell < input.load.size(); ++cell)
        input.load[cell] = 0.7 * input.load[cell] + workload.windows[at][cell];
      const PlacementPlan planned = plan(input);
      const Replicas next = place_eplb(workload, input.load).replicas;
      if (at > 0) {
        moves += planned.moves;
        eplb_moves += moves_between(eplb, next);
      }
      eplb = next;
      for (std::size_t i = 0; i < input.workers.size(); ++i)
        input.workers[i].held = planned.assigned[i];
      if (workload.workers < 10) {
        EXPECT_LE(planned.after.layer, 1.05);
      }
    }
    EXPECT_LE(3 * moves, eplb_moves);
  }
}

}  // namespace
}  // namespace fulgur::bench
