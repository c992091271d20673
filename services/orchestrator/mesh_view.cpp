#include "services/orchestrator/mesh_view.hpp"

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
          {"held_bytes", load.held_bytes}};
}

std::string_view shown_state(const Member& member) {
  return member.draining && member.state == MemberState::alive ? "draining"
                                                               : to_string(member.state);
}

nlohmann::json to_json(const Member& member, const Epochs& epochs) {
  return {{"kind", to_string(member.info.kind)},
          {"name", member.info.name},
          {"pid", member.info.pid},
          {"incarnation", member.info.incarnation},
          {"endpoint", member.info.endpoint},
          {"admin", member.info.admin_endpoint},
          {"epoch", member.epoch},
          {"replicas", epochs.replicas_on(member.info.name)},
          {"load", to_json(member.load)},
          {"state", shown_state(member)}};
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
    if (member.state != MemberState::lost) services.push_back(to_json(member, epochs));
  const Status serving = epochs.serving();
  return dump({{"services", std::move(services)},
               {"epoch", epochs.epoch()},
               {"generation", epochs.generation()},
               {"phase", to_string(epochs.phase())},
               {"replicas", epochs.replicas()},
               {"ready", serving.is_ok()},
               {"problem", serving.is_ok() ? epochs.problem() : serving.message()}});
}

MeshMetrics::MeshMetrics(telemetry::Metrics& metrics)
    : epoch_(metrics.gauge("fulgur_placement_epoch", "Committed placement epoch")),
      replicas_(
          metrics.gauge("fulgur_placement_replicas", "Replicas of every expert as committed")),
      serving_(metrics.gauge("fulgur_mesh_serving",
                             "1 when every expert has a replica and there is a shard")),
      moves_(metrics.counter("fulgur_placement_moves_total", "Replicas workers were told to load")),
      losses_(metrics.counter("fulgur_members_lost_total", "Members lost")),
      refused_(metrics.counter("fulgur_registrations_refused_total", "Registrations refused")),
      registrations_(metrics.counter("fulgur_registrations_total", "Registrations accepted")),
      reports_(metrics.counter("fulgur_worker_reports_total", "Reports of lost workers by shards")),
      departures_(metrics.counter("fulgur_members_left_total", "Members that drained and left")),
      drains_refused_(metrics.counter("fulgur_drains_refused_total", "Drains refused")),
      malformed_(metrics.counter("fulgur_malformed_frames_total", "Messages that did not decode")) {
  using enum wire::ServiceKind;
  for (const auto kind : {router, attention, expert})
    for (const auto state : {MemberState::alive, MemberState::suspect, MemberState::lost})
      members_[{kind, state}] = &metrics.gauge(
          "fulgur_members", "Members of the mesh",
          {{"kind", std::string(to_string(kind))}, {"state", std::string(to_string(state))}});
}

void MeshMetrics::update(const Coordinator& coordinator, std::uint64_t malformed_frames) {
  for (auto& [key, gauge] : members_)
    gauge->Set(static_cast<double>(coordinator.members().count(key.first, key.second)));
  const Epochs& epochs = coordinator.epochs();
  epoch_.Set(static_cast<double>(epochs.epoch()));
  replicas_.Set(epochs.replicas());
  serving_.Set(epochs.serving().is_ok() ? 1 : 0);
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
