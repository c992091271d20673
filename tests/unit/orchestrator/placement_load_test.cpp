// Properties of placement by load over seeded random meshes: what must never be broken, and when
// nothing may change.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "common/base/rng.hpp"
#include "services/orchestrator/placement.hpp"

namespace fulgur::orchestrator {
namespace {

std::vector<double> zipf_load(ModelShape shape, double skew, Rng& rng) {
  std::vector<double> load;
  for (std::uint32_t layer = 0; layer < shape.layers; ++layer) {
    std::vector<std::uint32_t> ranks(shape.experts);
    std::iota(ranks.begin(), ranks.end(), 1U);
    for (std::size_t i = ranks.size(); i > 1; --i) std::swap(ranks[i - 1], ranks[rng.below(i)]);
    for (const std::uint32_t rank : ranks) load.push_back(1e6 * std::pow(rank, -skew));
  }
  return load;
}

PlacementInput random_input(Rng& rng) {
  PlacementInput input;
  input.shape.layers = 1 + static_cast<std::uint32_t>(rng.below(6));
  input.shape.experts = 4 + static_cast<std::uint32_t>(rng.below(16));
  input.replicas = 1 + static_cast<std::uint32_t>(rng.below(2));
  input.spare = rng.uniform();
  input.load = zipf_load(input.shape, 1.5 * rng.uniform(), rng);
  const std::size_t workers = input.replicas + 1 + rng.below(7);
  const bool unequal = rng.below(2) == 0;
  const auto domains = rng.below(4);
  const double each = static_cast<double>(input.shape.cells()) * (input.replicas + 0.5) /
                      static_cast<double>(workers);
  for (std::size_t i = 0; i < workers; ++i) {
    PlacementWorker worker{"expert-" + std::to_string(i), 0, ReplicaMap(input.shape)};
    worker.capacity = static_cast<std::uint64_t>(each * (unequal ? 0.8 + rng.uniform() : 1.2)) + 1;
    if (unequal) worker.speed = 0.25 + rng.uniform();
    if (domains > 0) worker.domain = "rack-" + std::to_string(rng.below(domains + 1));
    input.workers.push_back(worker);
  }
  return input;
}

void adopt(PlacementInput& input, const PlacementPlan& plan) {
  for (std::size_t i = 0; i < input.workers.size(); ++i) input.workers[i].held = plan.assigned[i];
}

std::uint64_t limit_of(const PlacementWorker& worker) {
  return worker.alive && !worker.draining ? worker.capacity : 0;
}

/// Floors, capacities, counts, budget, moves; distinct workers are in the nature of a bitmap.
void expect_valid(const PlacementInput& input, const PlacementPlan& plan) {
  ASSERT_EQ(plan.assigned.size(), input.workers.size());
  std::uint64_t moves = 0;
  std::uint64_t all = 0;
  for (std::size_t i = 0; i < plan.assigned.size(); ++i) {
    ASSERT_LE(plan.assigned[i].count(), limit_of(input.workers[i])) << input.workers[i].name;
    moves += plan.assigned[i].count_missing_in(input.workers[i].held);
    all += plan.assigned[i].count();
  }
  EXPECT_EQ(plan.moves, moves);
  EXPECT_LE(static_cast<double>(all),
            static_cast<double>(input.shape.cells()) * (plan.replicas + input.spare) + 1e-6);
  for (std::uint32_t layer = 0; layer < input.shape.layers; ++layer)
    for (std::uint32_t expert = 0; expert < input.shape.experts; ++expert) {
      const auto holders = std::count_if(plan.assigned.begin(), plan.assigned.end(),
                                         [&](auto& map) { return map.contains(layer, expert); });
      ASSERT_GE(holders, plan.replicas);
      ASSERT_EQ(holders, plan.counts[std::size_t{layer} * input.shape.experts + expert]);
    }
}

class LoadPlacement : public testing::TestWithParam<std::uint64_t> {};

TEST_P(LoadPlacement, IsValidAndIgnoresTheOrderOfWorkers) {
  Rng rng(GetParam());
  PlacementInput input = random_input(rng);
  const auto plan = plan_placement(input);
  ASSERT_TRUE(plan.is_ok()) << plan.status().message();
  EXPECT_TRUE(plan->by_load);
  EXPECT_FALSE(plan->kept);
  expect_valid(input, *plan);

  PlacementInput reversed = input;
  std::reverse(reversed.workers.begin(), reversed.workers.end());
  const auto other = plan_placement(reversed);
  for (std::size_t i = 0; i < input.workers.size(); ++i)
    EXPECT_EQ(other->assigned[input.workers.size() - 1 - i], plan->assigned[i]);
}

TEST_P(LoadPlacement, TheSameLoadChangesNothing) {
  Rng rng(GetParam());
  PlacementInput input = random_input(rng);
  adopt(input, *plan_placement(input));
  // From what is held the search looks at other changes than from nothing: it may gain once more.
  adopt(input, *plan_placement(input));
  const auto again = plan_placement(input);
  EXPECT_EQ(again->moves, 0U);
  expect_valid(input, *again);
}

TEST_P(LoadPlacement, DrainingAndDeadWorkersHoldNothing) {
  Rng rng(GetParam());
  PlacementInput input = random_input(rng);
  input.replicas = 1;
  for (PlacementWorker& worker : input.workers) worker.capacity = input.shape.cells();
  adopt(input, *plan_placement(input));
  const std::size_t gone = rng.below(input.workers.size());
  (rng.below(2) == 0 ? input.workers[gone].alive : input.workers[gone].draining) ^= true;
  input.since_change = 0;  // a loss is acted upon however recent the last change was
  const auto plan = plan_placement(input);
  ASSERT_TRUE(plan.is_ok());
  expect_valid(input, *plan);
  EXPECT_EQ(plan->assigned[gone].count(), 0U);
}

TEST_P(LoadPlacement, MovesStayWithinTheCap) {
  Rng rng(GetParam());
  PlacementInput input = random_input(rng);
  for (PlacementWorker& worker : input.workers) worker.domain.clear();
  adopt(input, *plan_placement(input));
  input.load = zipf_load(input.shape, 1.5, rng);
  input.policy.moves_max = rng.below(5);
  const auto plan = plan_placement(input);
  expect_valid(input, *plan);
  EXPECT_LE(plan->moves, input.policy.moves_max);
  EXPECT_LE(plan->after.excess(), plan->before.excess() + 1e-9);
}

TEST_P(LoadPlacement, PolicyKeepsWhatIsHeld) {
  Rng rng(GetParam());
  PlacementInput input = random_input(rng);
  adopt(input, *plan_placement(input));
  input.load = zipf_load(input.shape, 1.5, rng);
  PlacementInput soon = input;
  soon.since_change = soon.policy.interval_min - 1;
  PlacementInput content = input;
  content.policy.trigger = 1e9;
  PlacementInput choosy = input;
  choosy.policy.gain_min = 1e9;
  for (const PlacementInput& each : {soon, content, choosy}) {
    const auto plan = plan_placement(each);
    EXPECT_TRUE(plan->kept);
    EXPECT_EQ(plan->moves, 0U);
    for (std::size_t i = 0; i < input.workers.size(); ++i)
      EXPECT_EQ(plan->assigned[i], input.workers[i].held);
  }
}

TEST_P(LoadPlacement, TwoReplicasSpanTwoDomains) {
  Rng rng(GetParam());
  PlacementInput input = random_input(rng);
  input.replicas = 2;
  for (std::size_t i = 0; i < input.workers.size(); ++i) {
    input.workers[i].capacity = input.shape.cells();
    input.workers[i].domain = i % 2 == 0 ? "a" : "b";
  }
  for (int round = 0; round < 2; ++round) {
    const auto plan = plan_placement(input);
    for (std::uint32_t layer = 0; layer < input.shape.layers; ++layer)
      for (std::uint32_t expert = 0; expert < input.shape.experts; ++expert) {
        std::set<std::string> domains;
        for (std::size_t i = 0; i < input.workers.size(); ++i)
          if (plan->assigned[i].contains(layer, expert)) domains.insert(input.workers[i].domain);
        ASSERT_EQ(domains.size(), 2U);
      }
    adopt(input, *plan);
    input.load = zipf_load(input.shape, 1.0, rng);
  }
}

INSTANTIATE_TEST_SUITE_P(Seeds, LoadPlacement, testing::Range<std::uint64_t>(1, 121));

PlacementInput small_input() {
  PlacementInput input;
  input.shape = {1, 4};
  input.replicas = 1;
  input.spare = 0.5;
  input.policy.tokens_min = 100;
  for (const char* const name : {"a", "b", "c"})
    input.workers.push_back({name, 2, ReplicaMap(input.shape)});
  return input;
}

TEST(LoadPlacementOnce, AHotExpertGetsTheSpareReplicas) {
  PlacementInput input = small_input();
  input.load = {600, 100, 100, 100};
  const auto plan = plan_placement(input);
  EXPECT_EQ(plan->counts, (std::vector<std::uint32_t>{3, 1, 1, 1}));
  EXPECT_EQ(plan->after.layer, 1.0);
  EXPECT_EQ(plan->after.total, 1.0);
}

TEST(LoadPlacementOnce, AFastWorkerGetsMore) {
  PlacementInput input = small_input();
  input.spare = 0;
  input.load = {100, 100, 100, 100};
  input.workers.pop_back();
  for (PlacementWorker& worker : input.workers) worker.capacity = 4;
  input.workers[0].speed = 3;
  const auto plan = plan_placement(input);
  EXPECT_EQ(plan->assigned[0].count(), 3U);
  EXPECT_EQ(plan->after.layer, 1.0);
}

TEST(LoadPlacementOnce, ReplicasDoNotFollowTheNoiseOfMeasuredSpeeds) {
  PlacementInput input = small_input();
  input.load = {200, 100, 150, 120};
  adopt(input, *plan_placement(input));
  input.workers[0].speed = 1.5;
  input.workers[1].speed = 0.8;
  EXPECT_TRUE(plan_placement(input)->kept);
  input.workers[0].speed = 0.1;
  const auto plan = plan_placement(input);
  EXPECT_FALSE(plan->kept);
  EXPECT_LT(plan->after.layer, plan->before.layer);
}

TEST(LoadPlacementOnce, FewTokensAreNotBelieved) {
  PlacementInput input = small_input();
  input.load = {99, 0, 0, 0};
  const auto plan = plan_placement(input);
  EXPECT_FALSE(plan->by_load);
  EXPECT_EQ(plan->counts, (std::vector<std::uint32_t>{1, 1, 1, 1}));
}

TEST(LoadPlacementOnce, SaysWhatIsWrongWithTheInput) {
  PlacementInput input = small_input();
  input.load = {1, 2, 3};
  EXPECT_EQ(plan_placement(input).status().message(), "load has 3 cells, the model has 4");
  input.load = {1, 2, 3, -1};
  EXPECT_EQ(plan_placement(input).status().message(), "load holds -1, want a number >= 0");
  input.load.clear();
  input.workers[1].speed = 0;
  EXPECT_EQ(plan_placement(input).status().message(), "worker b has speed 0, want a number > 0");
  for (PlacementWorker& worker : input.workers) worker.draining = true;
  input.workers[1].speed = 1;
  EXPECT_EQ(plan_placement(input).status().message(), "no expert worker is in the mesh");
}

}  // namespace
}  // namespace fulgur::orchestrator
