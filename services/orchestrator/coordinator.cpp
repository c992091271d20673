#include "services/orchestrator/coordinator.hpp"

#include "common/base/log.hpp"

namespace fulgur::orchestrator {

using wire::ServiceKind;

void Coordinator::on_register(transport::LinkId link, const wire::Register& info) {
  wire::Ack ack{info.incarnation, Code::ok, {}, options_.generation};
  const auto arrival = members_.on_register(link, info);
  if (!arrival.is_ok()) {
    ++counters_.refused;
    log::warn("refused kind={} name={} why=\"{}\"", to_string(info.kind), info.name,
              arrival.status().message());
    ack.code = arrival.status().code();
    ack.message = arrival.status().message();
    outbox_.send(link, std::move(ack));
    return;
  }
  ++counters_.registrations;
  if (*arrival == Membership::Arrival::replaced) ++counters_.losses;
  log::info("registered kind={} name={} pid={} endpoint={} epoch={} held={}{}",
            to_string(info.kind), info.name, info.pid, info.endpoint, info.epoch, info.held.size(),
            *arrival == Membership::Arrival::again ? " again=1" : "");
  outbox_.send(link, std::move(ack));
  admit(*members_.find(info.name), *arrival);
  begin_when_settled();
  flush();
}

void Coordinator::admit(const Member& member, Membership::Arrival arrival) {
  const bool again = arrival == Membership::Arrival::again;
  switch (member.info.kind) {
    case ServiceKind::expert:
      if (first_worker_at_ < 0) first_worker_at_ = clock_.now();
      if (again)
        epochs_.worker_again(member.info);
      else
        epochs_.worker_joined(member.info);
      break;
    case ServiceKind::attention:
      if (again && !member.draining)
        send_placement(member);
      else
        epochs_.shard_joined(member.info);
      break;
    default:
      epochs_.observe_epoch(member.info.epoch);
      send_placement(member);
  }
}

void Coordinator::send_placement(const Member& member) {
  if (auto placement = epochs_.placement()) outbox_.send(member.link, std::move(*placement));
}

void Coordinator::on_heartbeat(transport::LinkId link, const wire::Heartbeat& beat) {
  const auto revived = members_.on_heartbeat(link, beat);
  if (!revived.is_ok()) {
    // Its registration is on the way, or it is an older process that has been replaced.
    ++counters_.strangers;
    return;
  }
  epochs_.observe_epoch(beat.epoch);
  if (!*revived) return;
  log::info("back name={}", beat.name);
  admit(*members_.find(beat.name), Membership::Arrival::joined);
  flush();
}

void Coordinator::on_link_down(transport::LinkId link) {
  const Member* const member = members_.find_by_link(link);
  if (member == nullptr || !epochs_.dismissed(member->info.name)) {
    members_.on_link_down(link);
    return;
  }
  left(std::string(member->info.name));
  flush();
}

/// A member is gone that was to go.
void Coordinator::left(const std::string& name) {
  const Member& member = *members_.find(name);
  ++counters_.departures;
  log::info("left kind={} name={} pid={}", to_string(member.info.kind), name, member.info.pid);
  epochs_.worker_lost(name);
  epochs_.shard_lost(name);
  members_.remove(name);
}

// ---------------------------------------------------------------- drain

Status Coordinator::check_drainable(const std::string& name) const {
  const Member* const member = members_.find(name);
  if (member == nullptr || member->state == MemberState::lost)
    return error(Code::not_found, "no member of the mesh is called {}", name);
  const ServiceKind kind = member->info.kind;
  if (kind != ServiceKind::expert && kind != ServiceKind::attention)
    return error(Code::invalid_argument, "{} is a {}: only expert workers and attention shards drain",
                 name, to_string(kind));
  return Status::ok();
}

Status Coordinator::drain(const std::vector<std::string>& names) {
  if (names.empty()) return Status(Code::invalid_argument, "nobody is named to drain");
  std::set<std::string> fresh;
  for (const std::string& name : names) {
    FULGUR_RETURN_IF_ERROR(check_drainable(name));
    if (!members_.find(name)->draining) fresh.insert(name);
  }
  if (fresh.empty()) return Status::ok();
  if (Status possible = epochs_.can_drain(fresh); !possible.is_ok()) {
    ++counters_.drains_refused;
    log::warn("refused to drain name={} why=\"{}\"", names.front(), possible.message());
    return possible;
  }
  for (const std::string& name : fresh) {
    ++counters_.drains;
    log::info("draining name={}", name);
    members_.set_draining(name, true);
    epochs_.drain(name);
  }
  flush();
  return Status::ok();
}

Status Coordinator::undrain(const std::string& name) {
  FULGUR_RETURN_IF_ERROR(check_drainable(name));
  if (!members_.find(name)->draining) return Status::ok();
  FULGUR_RETURN_IF_ERROR(epochs_.undrain(name));
  log::info("drains no more name={}", name);
  members_.set_draining(name, false);
  flush();
  return Status::ok();
}

void Coordinator::on_drain(transport::LinkId link, const wire::Drain& message) {
  const Member* const member = members_.find(message.name);
  const Status asked = member == nullptr || member->link != link
                           ? error(Code::not_found, "{} is not registered here", message.name)
                           : drain({message.name});
  if (asked.is_ok()) return;
  const std::uint64_t id = member == nullptr ? 0 : member->info.incarnation;
  outbox_.send(link, wire::Ack{id, asked.code(), asked.message(), options_.generation});
}

// ---------------------------------------------------------------- time

void Coordinator::on_report(const wire::Report& report) {
  ++counters_.reports;
  log::info("report by={} worker={} code={}", report.name, report.worker, to_string(report.code));
  members_.on_report(report);
  tick();
}

void Coordinator::on_prepared(const wire::Prepared& message) {
  epochs_.on_prepared(message);
  flush();
}

void Coordinator::on_switched(const wire::Switched& message) {
  epochs_.on_switched(message);
  flush();
}

void Coordinator::tick() {
  for (const std::string& name : members_.expire()) {
    const Member& member = *members_.find(name);
    if (member.draining && member.info.kind == ServiceKind::attention) {
      left(name);
      continue;
    }
    ++counters_.losses;
    log::warn("lost kind={} name={} pid={}", to_string(member.info.kind), name, member.info.pid);
    if (member.info.kind == ServiceKind::expert) epochs_.worker_lost(name);
    if (member.info.kind == ServiceKind::attention) epochs_.shard_lost(name);
  }
  begin_when_settled();
  epochs_.tick();
  flush();
}

// A restarted orchestrator must hear all members before it plans, or it would move replicas of
// workers that are merely late; so the first plan waits for everybody expected, within bounds.
void Coordinator::begin_when_settled() {
  if (epochs_.phase() != Epochs::Phase::settling || first_worker_at_ < 0) return;
  const bool expecting = options_.expect_experts > 0 || options_.expect_attention > 0;
  const bool complete =
      expecting &&
      members_.count(ServiceKind::expert, MemberState::alive) >= options_.expect_experts &&
      members_.count(ServiceKind::attention, MemberState::alive) >= options_.expect_attention;
  const Nanoseconds patience = expecting ? options_.grace : options_.settle;
  if (complete || clock_.now() - first_worker_at_ >= patience) epochs_.begin();
}

void Coordinator::flush() {
  for (EpochAction& action : epochs_.take_actions()) {
    if (auto* prepare = std::get_if<PrepareTo>(&action)) {
      if (const Member* member = members_.find(prepare->worker))
        outbox_.send(member->link, std::move(prepare->message));
    } else if (auto* retire = std::get_if<RetireTo>(&action)) {
      if (const Member* member = members_.find(retire->worker))
        outbox_.send(member->link, retire->message);
    } else if (auto* drain = std::get_if<DrainTo>(&action)) {
      if (const Member* member = members_.find(drain->member))
        outbox_.send(member->link, drain->message);
    } else {
      const auto& placement = std::get<Publish>(action).message;
      for (const auto& [name, member] : members_.members())
        if (member.info.kind != ServiceKind::expert && member.state != MemberState::lost)
          outbox_.send(member.link, placement);
    }
  }
}

}  // namespace fulgur::orchestrator
