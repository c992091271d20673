#include "tests/sim/scenario.hpp"

#include <algorithm>

#include "tests/sim/sim_model.hpp"

namespace fulgur::sim {
namespace {

constexpr double kFaultChance = 0.3;  ///< that a seed has a class of faults

template <class T>
T one_of(Dice& dice, std::initializer_list<T> values) {
  return *(values.begin() + dice.below(values.size()));
}

void draw_limits(Scenario& scenario, Dice& dice) {
  auto& scheduler = scenario.scheduler;
  scheduler.slots = one_of(dice, {1U, 2U, 4U, 16U});
  scheduler.pages = one_of(dice, {4U, 6U, 16U, 64U});  // the longest request takes three
  scheduler.batch_tokens = one_of(dice, {16U, 64U, 100U, 512U});
  scheduler.lanes = one_of(dice, {1U, 1U, 2U, 3U});
  scheduler.lane_rows_min = one_of(dice, {1U, 4U});
  scheduler.waiting_max = one_of(dice, {2U, 64U, 1024U});
  scenario.dispatch.outstanding_max = one_of(dice, {1U, 2U, 64U, 64U});
  scenario.dispatch.silence_max = one_of(dice, {2, 10, 10}) * kSecond;
  scenario.layer.queue_max = one_of<std::size_t>(dice, {1, 4, 256, 256});
  scenario.layer.batch_rows_max = one_of<std::size_t>(dice, {16, 8192});
  scenario.requests_max = one_of<std::size_t>(dice, {3, 256, 256, 256});
  scenario.links.queue_messages = one_of<std::size_t>(dice, {8, 1024, 1024, 1024});
}

void draw_mesh(Scenario& scenario, Dice& dice) {
  scenario.routers = 1 + static_cast<std::uint32_t>(dice.below(2));
  scenario.shards = 1 + static_cast<std::uint32_t>(dice.below(3));
  scenario.workers = 2 + static_cast<std::uint32_t>(dice.below(3));
  scenario.fresh_endpoints = dice.chance(0.3);
  if (dice.chance(0.2)) scenario.capacity_replicas = 8;  // all of the model, and no more
  auto& coordinator = scenario.coordinator;
  coordinator.epochs.replicas = one_of(dice, {1U, 2U, 2U, 2U, 3U});
  coordinator.epochs.spare = one_of(dice, {0.0, 0.0, 0.25, 0.5});
  coordinator.epochs.rebalance_interval = one_of(dice, {0, 2}) * kSecond;
  scenario.drain_timeout = one_of(dice, {0, 10}) * kSecond;
  coordinator.epochs.prepare_timeout = 20 * kSecond;
  coordinator.epochs.switch_timeout = 10 * kSecond;
  coordinator.membership.heartbeat_timeout = one_of(dice, {3, 5, 10}) * kSecond;
  coordinator.expect_experts = scenario.workers;
  coordinator.expect_attention = scenario.shards;
  coordinator.grace = one_of(dice, {2, 10}) * kSecond;
}

void draw_times(Scenario& scenario, Dice& dice) {
  scenario.cost.call = one_of(dice, {200, 1000, 4000}) * kMicrosecond;
  scenario.cost.row = one_of(dice, {1, 20}) * kMicrosecond;
  scenario.conditions.latency_min = one_of(dice, {50, 500, 2000}) * kMicrosecond;
  scenario.conditions.latency_mean = one_of(dice, {100, 1000, 6000}) * kMicrosecond;
  scenario.duration = dice.between(4, 14) * kSecond;
  scenario.restart_mean = one_of(dice, {200, 1000, 3000}) * kMillisecond;
  scenario.faults_at_start = dice.chance(0.2);
  const std::uint64_t count = 6 + dice.below(15);
  const bool burst = dice.chance(0.3);
  for (std::uint64_t at = 0; at < count; ++at) {
    scenario.arrivals.push_back(
        static_cast<Nanoseconds>(dice.below(burst ? kSecond : scenario.duration)));
  }
  std::sort(scenario.arrivals.begin(), scenario.arrivals.end());
  if (dice.chance(0.1)) scenario.request_timeout = 2 * kSecond;
}

void draw_faults(Scenario& scenario, Dice& dice) {
  if (dice.chance(0.03)) return;  // a quiet day
  for (std::size_t fault = 0; fault < kFaults; ++fault) {
    if (!dice.chance(kFaultChance)) continue;
    scenario.every[fault] = one_of(dice, {500, 1500, 4000}) * kMillisecond;
  }
  // Half of the seeds stay within the contract, where the checks are strictest.
  if (dice.chance(0.5)) {
    std::fill(scenario.every.begin() + static_cast<int>(Fault::loss), scenario.every.end(), 0);
  }
  if (scenario.has(Fault::bad_load)) scenario.bad_load = one_of(dice, {0.01, 0.1});
  const auto rate = [&](Fault fault) {
    return scenario.has(fault) ? one_of(dice, {0.002, 0.01, 0.05}) : 0.0;
  };
  scenario.conditions.loss = rate(Fault::loss) / 2;
  scenario.conditions.combine_loss = rate(Fault::lost_credit) * 2;
  scenario.conditions.duplicate = rate(Fault::duplicate) * 4;
  scenario.conditions.reorder = rate(Fault::reorder) * 2;
  scenario.conditions.corrupt = rate(Fault::corrupt);
}

}  // namespace

std::string_view to_string(Fault fault) {
  static constexpr std::string_view kNames[] = {
      "kill worker", "kill shard", "kill router", "kill orchestrator", "vanish", "actor crash",
      "stop", "slow", "lag", "clog", "partition", "reset", "join", "drain", "hang up", "bad load",
      "second orchestrator", "loss", "lost credit", "duplicate", "reorder", "corrupt"};
  static_assert(std::size(kNames) == kFaults);
  return kNames[static_cast<std::size_t>(fault)];
}

Scenario::Scenario(std::uint64_t seed) {
  Dice dice(mix64(seed ^ 0x7363656eULL));
  draw_limits(*this, dice);
  draw_mesh(*this, dice);
  draw_times(*this, dice);
  draw_faults(*this, dice);
}

bool Scenario::strict() const {
  for (std::size_t fault = 0; fault < kFaults; ++fault) {
    if (every[fault] > 0 && beyond_contract(static_cast<Fault>(fault))) return false;
  }
  return request_timeout > 10 * kSecond;
}

}  // namespace fulgur::sim
