#include "services/orchestrator/mesh_view.hpp"

#include <algorithm>
#include <nlohmann/json.hpp>

namespace fulgur::orchestrator {
namespace {

// Names are bytes from the network: whatever is not UTF-8 is replaced, never thrown about.
std::string dump(const nlohmann::json& json) {
  return json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

nlohmann::json to_json(const wire::Load& load) {
  return {{"queue_depth", load.queue_depth},
          {"running", load.running},
          {"waiting", load.waiting},
          {"tokens_total", load.tokens_total},
          {"requests_total", load.requests_total},
          {"busy_ns_total", load.busy_ns_total},
          {"kv_pages_used", load.kv_pages_used},
          {"kv_pages_total", load.kv_pages_total},
          {"state_slots_used", load.state_slots_used},
          {"state_slots_total", load.state_slots_total},
          {"held_bytes", load.held_bytes},
          {"wait_ns_total", load.wait_ns_total}};
}

std::string_view shown_state(const Member& member) {
  return member.draining && member.state == MemberState::alive ? "draining"
                                                               : to_string(member.state);
}

nlohmann::json to_json(std::string_view pool, const ScalingSignal& signal,
                       const ScalingOptions& options) {
  return {{"pool", pool},
          {"replicas", signal.replicas()},
          {"wanted", signal.wanted()},
          {"floor", options.floor},
          {"ceiling", options.ceiling},
          {"busy_target", options.busy_target},
          {"busy", signal.busy()},
          {"wait_ms", static_cast<double>(signal.wait()) / kMillisecond},
          {"reason", signal.reason()}};
}

nlohmann::json to_json(const Member& member, const Coordinator& coordinator) {
  const Epochs& epochs = coordinator.epochs();
  const auto seen = coordinator.seen(member);
  return {{"slow", seen.slow},
          {"speed", seen.speed},
          {"measured_by", seen.measured_by},
          {"unreachable_by", seen.unreachable_by},
          {"failure_domain", member.info.failure_domain},
          {"kind", to_string(member.info.kind)},
          {"name", member.info.name},
          {"pid", member.info.pid},
          {"heard_ms_ago", (coordinator.clock().now() - member.last_seen) / kMillisecond},
          {"incarnation", member.info.incarnation},
          {"endpoint", member.info.endpoint},
          {"admin", member.info.admin_endpoint},
          {"epoch", member.epoch},
          {"replicas", epochs.replicas_on(member.info.name)},
          {"load", to_json(member.load)},
          {"state", shown_state(member)}};
}

nlohmann::json lost_members(const Coordinator& coordinator) {
  nlohmann::json lost = nlohmann::json::array();
  const Nanoseconds now = coordinator.clock().now();
  for (const auto& [name, member] : coordinator.members().members())
    if (member.state == MemberState::lost)
      lost.push_back({{"kind", to_string(member.info.kind)},
                      {"name", name},
                      {"pid", member.info.pid},
                      {"heard_ms_ago", (now - member.last_seen) / kMillisecond}});
  return lost;
}

nlohmann::json change_json(const Coordinator& coordinator) {
  const auto change = coordinator.epochs().change();
  if (!change) return nullptr;
  return {{"epoch", change->epoch},
          {"moves", change->moves},
          {"waits_for", change->waits_for},
          {"asked", change->asked},
          {"for_ms", (coordinator.clock().now() - change->since) / kMillisecond}};
}

}  // namespace

std::string mesh_json(const Coordinator& coordinator, const SelfDescription& self) {
  const Epochs& epochs = coordinator.epochs();
  nlohmann::json services = nlohmann::json::array();
  services.push_back({{"kind", "orchestrator"},
                      {"name", self.name},
                      {"pid", self.pid},
                      {"incarnation", epochs.generation()},
                      {"endpoint", self.endpoint},
                      {"admin", self.admin_endpoint},
                      {"epoch", epochs.epoch()},
                      {"replicas", 0},
                      {"load", to_json(wire::Load{})},
                      {"state", "alive"}});
  for (const auto& [name, member] : coordinator.members().members())
    if (member.state != MemberState::lost) services.push_back(to_json(member, coordinator));
  const Status serving = coordinator.serving();
  const Pools& pools = coordinator.pools();
  return dump({{"services", std::move(services)},
               {"epoch", epochs.epoch()},
               {"generation", epochs.generation()},
               {"phase", to_string(epochs.phase())},
               {"replicas", epochs.replicas()},
               {"moves_total", epochs.moves_total()},
               {"rebalances_total", epochs.rebalances_total()},
               {"balance", epochs.balance()},
               {"pools",
                {to_json("experts", pools.experts(), pools.options().experts),
                 to_json("attention", pools.attention(), pools.options().attention)}},
               {"change", change_json(coordinator)},
               {"lost", lost_members(coordinator)},
               {"superseded", coordinator.superseded_by() != 0},
               {"layers", epochs.shape().layers},
               {"experts", epochs.shape().experts},
               {"now_ms", coordinator.clock().wall_now() / kMillisecond},
               {"ready", serving.is_ok()},
               {"problem", serving.is_ok() ? epochs.problem() : serving.message()}});
}

MeshMetrics::MeshMetrics(telemetry::Metrics& metrics)
    : metrics_(metrics),
      epoch_(metrics.gauge("fulgur_placement_epoch", "Committed placement epoch")),
      replicas_(
          metrics.gauge("fulgur_placement_replicas", "Replicas of every expert as committed")),
      serving_(metrics.gauge("fulgur_mesh_serving",
                             "1 when every expert has a replica and there is a shard")),
      moves_(metrics.counter("fulgur_placement_moves_total", "Replicas workers were told to load")),
      losses_(metrics.counter("fulgur_members_lost_total", "Members lost")),
      refused_(metrics.counter("fulgur_registrations_refused_total", "Registrations refused")),
      registrations_(metrics.counter("fulgur_registrations_total", "Registrations accepted")),
      reports_(metrics.counter("fulgur_worker_reports_total", "Reports of lost workers by shards")),
      rebalances_(metrics.counter("fulgur_rebalances_total", "Changes of placement for balance")),
      balance_(metrics.gauge("fulgur_placement_balance_ratio",
                             "Slowest worker over the mean by known load; 1 is even, 0 unknown")),
      slow_(metrics.gauge("fulgur_workers_slow", "Expert workers that shards route around")),
      departures_(metrics.counter("fulgur_members_left_total", "Members that drained and left")),
      drains_refused_(metrics.counter("fulgur_drains_refused_total", "Drains refused")),
      malformed_(metrics.counter("fulgur_malformed_frames_total", "Messages that did not decode")) {
  using enum wire::ServiceKind;
  for (const char* const pool : {"experts", "attention"}) {
    wanted_[pool] = &metrics.gauge("fulgur_pool_wanted_replicas", "Size a pool should have",
                                   {{"pool", pool}});
    present_[pool] = &metrics.gauge("fulgur_pool_replicas", "Size a pool has", {{"pool", pool}});
    busy_[pool] = &metrics.gauge("fulgur_pool_busy_ratio", "Part of their time replicas compute",
                                 {{"pool", pool}});
  }
  for (const auto kind : {router, attention, expert})
    for (const auto state : {MemberState::alive, MemberState::suspect, MemberState::lost})
      members_[{kind, state}] = &metrics.gauge(
          "fulgur_members", "Members of the mesh",
          {{"kind", std::string(to_string(kind))}, {"state", std::string(to_string(state))}});
}

void MeshMetrics::update_pool(const std::string& pool, const ScalingSignal& signal) {
  wanted_.at(pool)->Set(signal.wanted());
  present_.at(pool)->Set(signal.replicas());
  busy_.at(pool)->Set(signal.busy());
}

/// Counts the workers that hold each expert, once an epoch.
void MeshMetrics::update_replicas(const Epochs& epochs) {
  if (epochs.epoch() == shown_epoch_) return;
  const auto placement = epochs.placement();
  if (!placement) return;
  shown_epoch_ = epochs.epoch();
  const std::size_t cells = std::size_t{placement->layers} * placement->experts;
  for (std::size_t cell = expert_replicas_.size(); cell < cells; ++cell) {
    expert_replicas_.push_back(&metrics_.gauge(
        "fulgur_placement_expert_replicas", "Workers that hold an expert as committed",
        {{"layer", std::to_string(cell / placement->experts)},
         {"expert", std::to_string(cell % placement->experts)}}));
  }
  for (std::size_t cell = 0; cell < cells; ++cell) {
    const auto holders = std::ranges::count_if(placement->workers, [&](const auto& worker) {
      return (worker.replicas[cell / 64] >> (cell % 64) & 1) != 0;
    });
    expert_replicas_[cell]->Set(static_cast<double>(holders));
  }
}

void MeshMetrics::update(const Coordinator& coordinator, std::uint64_t malformed_frames) {
  for (auto& [key, gauge] : members_)
    gauge->Set(static_cast<double>(coordinator.members().count(key.first, key.second)));
  const Epochs& epochs = coordinator.epochs();
  epoch_.Set(static_cast<double>(epochs.epoch()));
  replicas_.Set(epochs.replicas());
  update_replicas(epochs);
  serving_.Set(coordinator.serving().is_ok() ? 1 : 0);
  update_pool("experts", coordinator.pools().experts());
  update_pool("attention", coordinator.pools().attention());
  double slow = 0;
  for (const auto& [name, member] : coordinator.members().members())
    slow += member.state != MemberState::lost && coordinator.seen(member).slow;
  slow_.Set(slow);
  balance_.Set(epochs.balance());
  rebalances_.set(epochs.rebalances_total());
  moves_.set(epochs.moves_total());
  losses_.set(coordinator.counters().losses);
  refused_.set(coordinator.counters().refused);
  registrations_.set(coordinator.counters().registrations);
  reports_.set(coordinator.counters().reports);
  departures_.set(coordinator.counters().departures);
  drains_refused_.set(coordinator.counters().drains_refused);
  malformed_.set(malformed_frames);
}

}  // namespace fulgur::orchestrator
