// Properties of the placement function over seeded random meshes.
#include "services/orchestrator/placement.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "common/base/rng.hpp"

namespace fulgur::orchestrator {
namespace {

std::vector<PlacementWorker> fresh_workers(ModelShape shape, std::size_t count,
                                           std::uint64_t capacity) {
  std::vector<PlacementWorker> workers;
  for (std::size_t i = 0; i < count; ++i)
    workers.push_back({"expert-" + std::to_string(i), capacity, ReplicaMap(shape)});
  return workers;
}

void adopt(std::vector<PlacementWorker>& workers, const PlacementPlan& plan) {
  for (std::size_t i = 0; i < workers.size(); ++i) workers[i].held = plan.assigned[i];
}

/// Every expert has exactly plan.replicas holders, and nobody is over capacity.
void expect_covered(ModelShape shape, const std::vector<PlacementWorker>& workers,
                    const PlacementPlan& plan) {
  for (std::uint32_t layer = 0; layer < shape.layers; ++layer)
    for (std::uint32_t expert = 0; expert < shape.experts; ++expert) {
      const auto holders = std::count_if(plan.assigned.begin(), plan.assigned.end(),
                                         [&](auto& map) { return map.contains(layer, expert); });
      ASSERT_EQ(holders, plan.replicas) << "layer " << layer << " expert " << expert;
    }
  for (std::size_t i = 0; i < workers.size(); ++i)
    ASSERT_LE(plan.assigned[i].count(), workers[i].capacity) << workers[i].name;
}

std::uint64_t spread(const std::vector<std::uint64_t>& counts) {
  const auto [low, high] = std::minmax_element(counts.begin(), counts.end());
  return *high - *low;
}

/// With equal capacities counts differ by at most one, per layer and in total.
void expect_even(ModelShape shape, const PlacementPlan& plan) {
  std::vector<std::uint64_t> totals;
  for (const auto& map : plan.assigned) totals.push_back(map.count());
  ASSERT_LE(spread(totals), 1U);
  for (std::uint32_t layer = 0; layer < shape.layers; ++layer) {
    std::vector<std::uint64_t> counts;
    for (const auto& map : plan.assigned) counts.push_back(map.count_in_layer(layer));
    ASSERT_LE(spread(counts), 1U) << "layer " << layer;
  }
}

struct Case {
  ModelShape shape;
  std::uint32_t replicas;
  std::size_t workers;
};

Case random_case(Rng& rng) {
  Case drawn;
  drawn.shape.layers = 1 + static_cast<std::uint32_t>(rng.below(8));
  drawn.shape.experts = 2 + static_cast<std::uint32_t>(rng.below(20));
  drawn.replicas = 1 + static_cast<std::uint32_t>(rng.below(3));
  drawn.workers = drawn.replicas + rng.below(6);
  return drawn;
}

class PlacementProperty : public testing::TestWithParam<std::uint64_t> {};

TEST_P(PlacementProperty, CoversEvenlyAndIgnoresOrder) {
  Rng rng(GetParam());
  const Case drawn = random_case(rng);
  auto workers = fresh_workers(drawn.shape, drawn.workers, drawn.shape.cells());
  const auto plan = plan_placement(drawn.shape, drawn.replicas, workers);
  ASSERT_TRUE(plan.is_ok());
  EXPECT_EQ(plan->replicas, drawn.replicas);
  EXPECT_EQ(plan->shortfall, "");
  EXPECT_EQ(plan->moves, drawn.shape.cells() * drawn.replicas);
  expect_covered(drawn.shape, workers, *plan);
  expect_even(drawn.shape, *plan);

  std::reverse(workers.begin(), workers.end());
  const auto reversed = plan_placement(drawn.shape, drawn.replicas, workers);
  for (std::size_t i = 0; i < workers.size(); ++i)
    EXPECT_EQ(reversed->assigned[workers.size() - 1 - i], plan->assigned[i]);

  adopt(workers, *reversed);
  EXPECT_EQ(plan_placement(drawn.shape, drawn.replicas, workers)->moves, 0U);
}

TEST_P(PlacementProperty, LeavingMovesOnlyWhatWasLost) {
  Rng rng(GetParam());
  Case drawn = random_case(rng);
  ++drawn.workers;
  auto workers = fresh_workers(drawn.shape, drawn.workers, drawn.shape.cells());
  adopt(workers, *plan_placement(drawn.shape, drawn.replicas, workers));
  const std::size_t gone = rng.below(workers.size());
  const std::uint64_t lost = workers[gone].held.count();
  workers.erase(workers.begin() + static_cast<std::ptrdiff_t>(gone));
  const auto plan = plan_placement(drawn.shape, drawn.replicas, workers);
  expect_covered(drawn.shape, workers, *plan);
  expect_even(drawn.shape, *plan);
  EXPECT_GE(plan->moves, lost);
  // Even totals may cost a few more than the lost ones: at most one a layer.
  EXPECT_LE(plan->moves, lost + drawn.shape.layers);
}

TEST_P(PlacementProperty, JoiningMovesOnlyTheNewcomersShare) {
  Rng rng(GetParam());
  const Case drawn = random_case(rng);
  auto workers = fresh_workers(drawn.shape, drawn.workers, drawn.shape.cells());
  adopt(workers, *plan_placement(drawn.shape, drawn.replicas, workers));
  workers.push_back({"expert-new", drawn.shape.cells(), ReplicaMap(drawn.shape)});
  const auto plan = plan_placement(drawn.shape, drawn.replicas, workers);
  expect_covered(drawn.shape, workers, *plan);
  expect_even(drawn.shape, *plan);
  EXPECT_GE(plan->moves, plan->assigned.back().count());
  EXPECT_LE(plan->moves, plan->assigned.back().count() + drawn.shape.layers);
}

TEST_P(PlacementProperty, UnequalCapacitiesAreRespected) {
  Rng rng(GetParam());
  const Case drawn = random_case(rng);
  auto workers = fresh_workers(drawn.shape, drawn.workers, 0);
  std::uint64_t room = 0;
  for (auto& worker : workers) {
    worker.capacity = rng.below(2 * drawn.shape.cells());
    room += std::min(worker.capacity, drawn.shape.cells());
  }
  const auto plan = plan_placement(drawn.shape, drawn.replicas, workers);
  const std::uint64_t fit = room / drawn.shape.cells();
  ASSERT_EQ(plan.is_ok(), fit > 0);
  if (fit == 0) return;
  EXPECT_EQ(plan->replicas, std::min<std::uint64_t>(fit, drawn.replicas));
  EXPECT_EQ(plan->shortfall.empty(), plan->replicas == drawn.replicas);
  expect_covered(drawn.shape, workers, *plan);
}

INSTANTIATE_TEST_SUITE_P(Seeds, PlacementProperty, testing::Range<std::uint64_t>(1, 201));

TEST(Placement, SaysWhatLacks) {
  const ModelShape shape{2, 4};
  EXPECT_EQ(plan_placement(shape, 2, {}).status().message(), "no expert worker is in the mesh");
  EXPECT_EQ(plan_placement(shape, 2, fresh_workers(shape, 2, 3)).status().message(),
            "2 expert workers have room for 6 experts, the model has 8 (2 layers x 4)");
  const auto plan = plan_placement(shape, 2, fresh_workers(shape, 1, 100));
  EXPECT_EQ(plan->replicas, 1U);
  EXPECT_EQ(plan->shortfall, "1 of 2 replicas an expert: 1 workers have room for 8 of 16 replicas");
}

TEST(Placement, PlansAWholeM1) {
  const ModelShape shape{80, 32};
  auto workers = fresh_workers(shape, 16, shape.cells());
  const auto plan = plan_placement(shape, 2, workers);
  ASSERT_TRUE(plan.is_ok());
  expect_covered(shape, workers, *plan);
  expect_even(shape, *plan);
}

}  // namespace
}  // namespace fulgur::orchestrator
