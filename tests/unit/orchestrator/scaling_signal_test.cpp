// The scaling signal against load curves on virtual time: a pool that follows the signal with a
// delay, as a cluster does. Grows where needed, shrinks to the floor, never flaps.
#include "services/orchestrator/scaling_signal.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <vector>

#include "common/base/rng.hpp"
#include "services/orchestrator/pool_meter.hpp"

namespace fulgur::orchestrator {
namespace {

constexpr Nanoseconds kTick = kSecond;
constexpr std::size_t kStartDelay = 20;  // ticks until a wanted replica serves

/// Work that arrives, in replicas that it would keep wholly busy, by second.
using Curve = std::function<double(std::size_t second)>;

struct Followed {
  std::vector<std::uint32_t> wanted;
  std::vector<double> backlog;  ///< seconds of work waiting
  std::size_t changes = 0;
  std::size_t turns = 0;  ///< shrinking after growing or the other way round
};

Followed follow(const ScalingOptions& options, const Curve& curve, std::size_t seconds,
           std::uint32_t replicas = 1) {
  ScalingSignal signal(options);
  Followed run;
  double backlog = 0;
  int direction = 0;
  for (std::size_t second = 0; second < seconds; ++second) {
    const double arrived = curve(second);
    const double done = std::min(backlog + arrived, static_cast<double>(replicas));
    backlog += arrived - done;
    const double wait_s = backlog / replicas;
    PoolSample sample{replicas, done / replicas, static_cast<Nanoseconds>(wait_s * kSecond), 0};
    const std::uint32_t before = signal.wanted();
    signal.observe(sample, static_cast<Nanoseconds>(second) * kTick);
    if (second > 0 && signal.wanted() != before) {
      ++run.changes;
      const int now = signal.wanted() > before ? 1 : -1;
      if (direction != 0 && now != direction) ++run.turns;
      direction = now;
    }
    run.wanted.push_back(signal.wanted());
    run.backlog.push_back(backlog);
    if (second >= kStartDelay) replicas = std::max(1U, run.wanted[second - kStartDelay]);
  }
  return run;
}

TEST(ScalingSignal, AStepIsFollowedOnce) {
  const Followed run = follow({}, [](std::size_t s) { return s < 60 ? 0.5 : 4.0; }, 900);
  EXPECT_EQ(run.wanted[59], 1U);
  EXPECT_GE(run.wanted[120], 6U) << "4 busy replicas at 0.7 are 6";
  EXPECT_LT(run.backlog.back(), 0.01);
  EXPECT_EQ(run.wanted.back(), 6U);
  EXPECT_LE(run.turns, 1U) << "the queue of the step may ask for more, once";
}

TEST(ScalingSignal, ARampIsFollowedUpAndDown) {
  const Followed up = follow({}, [](std::size_t s) { return 0.01 * static_cast<double>(s); }, 800);
  EXPECT_TRUE(std::is_sorted(up.wanted.begin(), up.wanted.end())) << "never down on the way up";
  EXPECT_EQ(up.wanted.back(), 12U);
  const Followed down = follow(
      {}, [](std::size_t s) { return std::max(0.0, 6 - 0.01 * static_cast<double>(s)); }, 1000, 10);
  EXPECT_TRUE(std::is_sorted(down.wanted.rbegin(), down.wanted.rend())) << "never up on the way down";
  EXPECT_EQ(down.wanted.back(), 1U);
}

TEST(ScalingSignal, AShortSpikeIsServedAndForgotten) {
  const Followed run = follow({}, [](std::size_t s) { return s >= 100 && s < 110 ? 5.0 : 0.6; }, 900);
  EXPECT_GT(*std::max_element(run.wanted.begin(), run.wanted.end()), 1U);
  EXPECT_EQ(run.wanted.back(), 1U);
  EXPECT_LE(run.turns, 1U);
}

TEST(ScalingSignal, NoTrafficFallsToTheFloorAfterTheWindow) {
  ScalingOptions options;
  options.floor = 2;
  const Followed run = follow(options, [](std::size_t) { return 0.0; }, 600, 8);
  EXPECT_EQ(run.wanted[170], 8U) << "within the window nothing shrinks";
  EXPECT_EQ(run.wanted.back(), 2U);
  EXPECT_EQ(run.changes, 1U);
}

TEST(ScalingSignal, NoiseAroundALevelDoesNotFlap) {
  Rng rng(7);
  const Followed noisy = follow(
      {}, [&](std::size_t) { return 3.0 + 1.2 * (rng.uniform() - 0.5); }, 3600, 5);
  EXPECT_LE(noisy.turns, 1U);
  // Half a minute on, half a minute off: the size for the busy half is kept.
  const Followed square = follow({}, [](std::size_t s) { return s / 30 % 2 == 0 ? 3.0 : 0.0; }, 3600, 5);
  EXPECT_LE(square.turns, 1U);
  EXPECT_GE(square.wanted.back(), 4U);
}

TEST(ScalingSignal, CeilingFloorAndCooldownHold) {
  ScalingOptions options;
  options.floor = 2;
  options.ceiling = 8;
  const Followed run = follow(options, [](std::size_t) { return 50.0; }, 300);
  EXPECT_GE(run.wanted[0], 2U);
  EXPECT_LE(*std::max_element(run.wanted.begin(), run.wanted.end()), 8U);
  EXPECT_EQ(run.wanted.back(), 8U);
  for (std::size_t s = 15; s < run.wanted.size(); ++s)
    EXPECT_LE(run.wanted[s], 2 * run.wanted[s - 15]) << "at most a doubling a cool-down";
}

TEST(ScalingSignal, WaitAndLatencyCountOnlyWhenThePoolWorks) {
  ScalingSignal idle{ScalingOptions{}};
  ScalingSignal late{ScalingOptions{}};
  for (Nanoseconds now = 0; now < 60 * kSecond; now += kTick) {
    idle.observe({3, 0.05, 0, 5.0}, now);
    late.observe({3, 0.6, 0, 1.5}, now);
  }
  EXPECT_EQ(idle.wanted(), 3U) << "more idle replicas make nothing faster";
  EXPECT_GT(late.wanted(), 4U);
  EXPECT_EQ(late.reason(), "latency");
}

TEST(PoolMeter, TurnsCountersIntoASample) {
  PoolMeter meter;
  wire::Load load;
  meter.observe("a", 1, load, 0);
  meter.observe("b", 1, load, 0);
  load.busy_ns_total = 500 * kMillisecond;
  load.wait_ns_total = 100 * kMillisecond;
  load.requests_total = 10;
  meter.observe("a", 1, load, kSecond);
  meter.observe("b", 1, {}, kSecond);
  PoolSample sample = meter.take(2);
  EXPECT_EQ(sample.replicas, 2U);
  EXPECT_DOUBLE_EQ(sample.busy, 0.25);
  EXPECT_EQ(sample.wait, 10 * kMillisecond);
  // A new process counts from zero: neither negative nor huge.
  meter.observe("a", 2, {}, 2 * kSecond);
  meter.observe("b", 1, {}, 2 * kSecond);
  sample = meter.take(2);
  EXPECT_EQ(sample.busy, 0);
  EXPECT_EQ(sample.wait, 0);
}

TEST(PoolMeter, ComparesLatenciesWithTheirTargets) {
  PoolMeter routers;
  wire::Load load;
  routers.observe("r", 1, load, 0);
  load.first_token_ns_total = 4 * kSecond;
  load.first_tokens_total = 4;
  load.inter_token_ns_total = 3 * kSecond;
  load.inter_tokens_total = 100;
  routers.observe("r", 1, load, kSecond);
  EXPECT_DOUBLE_EQ(routers.take_slo_use({2 * kSecond, 20 * kMillisecond}), 1.5);
  EXPECT_EQ(routers.take_slo_use({2 * kSecond, 20 * kMillisecond}), 0);
}

}  // namespace
}  // namespace fulgur::orchestrator
