// The recurrence of the pipeline against hand-computed steps and an event simulation.
#include "cli/planner/pipeline.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <tuple>

#include "cli/planner/pool_order.hpp"
#include "common/base/rng.hpp"

namespace fulgur::planner {
namespace {

/// First come, first served at every resource: always starts the work that can start earliest.
double simulated_step(const Pipeline& pipeline) {
  enum Station { attention, out, experts, back, stations };
  struct Job {
    double ready = 0;
    std::size_t at = 0;  // operations done
  };
  const std::size_t a_step = pipeline.layers.size() * stations;
  const std::size_t all = a_step * kSteps + 1;  // and the last step's head
  std::vector<Job> jobs(pipeline.micro_batches);
  std::vector<double> free(stations, 0.0);
  const auto operation = [&](std::size_t at) -> std::tuple<int, double, double> {
    const std::size_t within = at % a_step;
    const double head = at > 0 && within == 0 ? pipeline.head : 0;
    if (at + 1 == all) return {attention, pipeline.head, 0.0};
    const StageTimes& stage = pipeline.layers[within / stations];
    switch (within % stations) {
      case attention:
        return {attention, head + stage.attention, 0.0};
      case out:
        return {out, stage.out, stage.out_latency};
      case experts:
        return {experts, stage.experts, 0.0};
      default:
        return {back, stage.back, stage.back_latency};
    }
  };
  double end = 0;
  for (std::size_t done = 0; done < all * jobs.size(); ++done) {
    Job* next = nullptr;
    double next_start = 0;
    for (Job& job : jobs) {
      if (job.at == all) continue;
      const double start = std::max(job.ready, free[std::get<0>(operation(job.at))]);
      const bool sooner =
          next == nullptr || start < next_start || (start == next_start && job.ready < next->ready);
      if (sooner) {
        next = &job;
        next_start = start;
      }
    }
    const auto [station, seconds, latency] = operation(next->at++);
    free[station] = next_start + seconds;
    next->ready = free[station] + latency;
    end = std::max(end, next->ready);
  }
  return end / kSteps;
}

Pipeline random_pipeline(Rng& rng, std::uint32_t micro_batches) {
  Pipeline pipeline;
  for (std::size_t layer = 0; layer < 1 + rng.below(12); ++layer) {
    const bool slow = rng.below(4) == 0;
    pipeline.layers.push_back({rng.uniform() * (slow ? 10 : 1), rng.uniform() * 0.3, rng.uniform(),
                               rng.uniform() * 2, rng.uniform() * 0.3, rng.uniform()});
  }
  pipeline.head = rng.uniform();
  pipeline.micro_batches = micro_batches;
  return pipeline;
}

TEST(Pipeline, OneMicroBatchIsTheSumOfItsStages) {
  const Pipeline pipeline{{{3, 1, 2, 5, 1, 2}, {4, 1, 2, 5, 1, 2}}, 7, 1, false};
  EXPECT_DOUBLE_EQ(step_seconds(pipeline), 14 + 15 + 7);
  const Pipeline shared{{{3, 1, 2, 5, 1, 2}, {4, 1, 2, 5, 1, 2}}, 7, 1, true};
  EXPECT_DOUBLE_EQ(step_seconds(shared), 14 + 15 + 7);
}

TEST(Pipeline, TwoEqualStagesFillEachOther) {
  // Two micro-batches and stages of 1: 2 a layer once the pipe is full, and 1 more at its start.
  const Pipeline pipeline{std::vector<StageTimes>(10, {1, 0, 0, 1, 0, 0}), 0, 2, false};
  EXPECT_DOUBLE_EQ(step_seconds(pipeline), (2.0 * 10 * kSteps + 1) / kSteps);
  const Busy busy = busy_seconds(pipeline);
  EXPECT_DOUBLE_EQ(busy.attention, 20);
  EXPECT_DOUBLE_EQ(busy.experts, 20);
}

TEST(Pipeline, OneDeviceForBothGainsNothingFromMicroBatches) {
  const Pipeline pipeline{std::vector<StageTimes>(10, {1, 0, 0, 1, 0, 0}), 0, 2, true};
  EXPECT_DOUBLE_EQ(step_seconds(pipeline), 40);
}

TEST(Pipeline, LatencyIsHiddenByEnoughMicroBatches) {
  const auto step = [](std::uint32_t count) {
    return step_seconds({std::vector<StageTimes>(20, {1, 0, 1, 1, 0, 1}), 0, count, false});
  };
  EXPECT_DOUBLE_EQ(step(1), 20 * 4);
  EXPECT_NEAR(step(4), 20 * 4, 0.2) << "four micro-batches in the time of one";
}

TEST(Pipeline, ASlowLayerLeavesABubble) {
  std::vector<StageTimes> layers(8, {1, 0, 0, 1, 0, 0});
  layers[7].attention = 5;
  const Pipeline pipeline{layers, 0, 2, false};
  // While one micro-batch is in the slow layer the other waits before it: 14 + 2 x 5 + some.
  EXPECT_GT(step_seconds(pipeline), 2 * (7 + 5));
  EXPECT_LT(step_seconds(pipeline), 2 * (7 + 5) + 2);
}

TEST(Pipeline, IsWhatFirstComeFirstServedDoes) {
  for (std::uint64_t seed = 1; seed <= 300; ++seed) {
    Rng rng(seed);
    const auto count = static_cast<std::uint32_t>(1 + rng.below(4));
    Pipeline pipeline = random_pipeline(rng, count);
    for (StageTimes& stage : pipeline.layers) {  // as in a model: layers differ in attention only
      const double attention = stage.attention;
      stage = pipeline.layers[0];
      stage.attention = attention;
    }
    EXPECT_NEAR(step_seconds(pipeline), simulated_step(pipeline), 1e-9) << "seed " << seed;
  }
}

TEST(Pipeline, NeverBeatsItsBoundsAndRisesWithEveryStage) {
  for (std::uint64_t seed = 1; seed <= 200; ++seed) {
    Rng rng(seed);
    Pipeline pipeline = random_pipeline(rng, static_cast<std::uint32_t>(1 + rng.below(4)));
    pipeline.one_resource = rng.below(2) == 0;
    const double before = step_seconds(pipeline);
    const Busy busy = busy_seconds(pipeline);
    const double sum = pipeline.one_resource ? busy.attention + busy.experts : 0;
    EXPECT_GE(before + 1e-9, std::max({busy.attention, busy.experts, busy.link, sum}));
    StageTimes& stage = pipeline.layers[rng.below(pipeline.layers.size())];
    double* const times[] = {&stage.attention, &stage.out,  &stage.out_latency,
                             &stage.experts,   &stage.back, &stage.back_latency};
    *times[rng.below(6)] += rng.uniform();
    EXPECT_GE(step_seconds(pipeline), before) << "seed " << seed;
  }
}

PoolRun pool_run(std::uint32_t shards, std::uint32_t micro_batches, double attention,
                 double experts, double latency) {
  PoolRun run;
  run.shard = {std::vector<StageTimes>(20, {attention, 0, latency, 0, 0, latency}), 0,
               micro_batches, false};
  run.shards = shards;
  run.experts = [experts](std::uint32_t) { return experts; };
  return run;
}

TEST(PoolOrder, OneShardIsThePipeline) {
  for (const PoolOrder order : {PoolOrder::arrival, PoolOrder::most_waiting}) {
    PoolRun run = pool_run(1, 1, 2, 3, 0.5);
    run.order = order;
    EXPECT_NEAR(apart_step_seconds(run), 20 * (2 + 3 + 2 * 0.5), 1e-9);
  }
  Pipeline pipeline = pool_run(1, 2, 2, 3, 0.5).shard;
  for (StageTimes& stage : pipeline.layers) stage.experts = 3;
  // Two micro-batches join where they can: never slower than one after the other.
  EXPECT_LE(apart_step_seconds(pool_run(1, 2, 2, 3, 0.5)), step_seconds(pipeline) + 1e-9);
}

TEST(PoolOrder, APoolWithTimeToSpareMakesNobodyWaitLong) {
  const double alone = 20 * (10 + 0.1);
  EXPECT_LT(apart_step_seconds(pool_run(4, 1, 10, 0.1, 0)), alone * 1.03);
}

TEST(PoolOrder, ShardsMeetSoonerWhereMostWait) {
  PoolRun run = pool_run(8, 2, 2.2, 2.6, 0.6);
  const double arrival = apart_step_seconds(run);
  run.order = PoolOrder::most_waiting;
  const double most = apart_step_seconds(run);
  EXPECT_LT(most, arrival);
  EXPECT_GE(most, 20 * (2.2 + 2.6 + 2 * 0.6) - 1e-9) << "a micro-batch's own way";
  EXPECT_LE(arrival, 20 * 8 * 2 * 2.6 + 20 * 6) << "all of them one after another";
  EXPECT_EQ(apart_step_seconds(run), most) << "the same again";
}

}  // namespace
}  // namespace fulgur::planner
