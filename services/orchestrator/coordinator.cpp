#include "services/orchestrator/coordinator.hpp"

#include <algorithm>

#include "common/base/log.hpp"

namespace fulgur::orchestrator {

using wire::ServiceKind;

namespace {

constexpr std::uint64_t kGenerationMax = 1ULL << 63;  // wall-clock nanoseconds stay below
constexpr double kSpeedMin = 0.05;  // a plan by wilder ratios is a plan by noise
constexpr Nanoseconds kPatience = kSecond;           // two heartbeats: what was sent is on its way
constexpr Nanoseconds kRepeatPeriod = 2 * kSecond;   // to a member that is behind
constexpr Nanoseconds kStrangerPeriod = 5 * kSecond;
constexpr std::size_t kStrangersMax = 1024;

}  // namespace

Coordinator::Coordinator(CoordinatorOptions options, const Clock& clock, Outbox& outbox)
    : options_([&] {
        options.epochs.hints = [this] { return hints(); };
        return std::move(options);
      }()),
      clock_(clock),
      outbox_(outbox),
      events_(clock),
      members_(options_.fingerprint, options_.membership, clock),
      epochs_(options_.epochs, options_.generation, clock, events_),
      load_(options_.epochs.shape, options_.history, clock),
      pools_(options_.pools) {}

/// False once a member obeys a newer orchestrator: two at once would pull the mesh apart. One that
/// has not published yet is the newer one, whatever its clock said, and takes a higher number.
bool Coordinator::obeyed(const std::string& by, std::uint64_t generation) {
  if (generation <= options_.generation || generation > kGenerationMax) return true;
  if (epochs_.phase() == Epochs::Phase::settling) {
    options_.generation = generation + 1;
    epochs_.set_generation(options_.generation);
    return true;
  }
  superseded_by_ = generation;
  log::error("stepping down: {} obeys the orchestrator of generation {}, this one is {}", by,
             generation, options_.generation);
  events_.add(Severity::error, "stepped down", by,
              fmt::format("obeys the orchestrator of generation {}, this one is {} and ends",
                          generation, options_.generation));
  return false;
}

PlanningHints Coordinator::hints() const {
  PlanningHints hints;
  hints.load = load_.snapshot();
  // Only a worker that is slow beyond doubt counts as less than others, and none as more: a share of
  // a busy host looks fast or slow for seconds, and a worker that has just come is not known at all.
  for (const auto& [name, member] : members_.members()) {
    if (member.info.kind != ServiceKind::expert) continue;
    const WorkerView::Summary summary = seen(member);
    if (summary.slow) hints.speeds[name] = std::clamp(summary.speed, kSpeedMin, 1.0);
  }
  return hints;
}

Status Coordinator::serving() const {
  if (superseded_by_ == 0) return epochs_.serving();
  return error(Code::failed_precondition, "superseded by the orchestrator of generation {}",
               superseded_by_);
}

void Coordinator::forget(const std::string& name) {
  pools_.forget(name);
  worker_view_.forget_shard(name);
  slow_.erase(name);
}

void Coordinator::on_register(transport::LinkId link, const wire::Register& info) {
  if (superseded_by_ != 0) return;
  wire::Ack ack{info.incarnation, Code::ok, {}, options_.generation};
  const Member* const before = members_.find(info.name);
  const bool was_to_go = before != nullptr && is_to_go(*before);
  if (before != nullptr && is_older_than_silent(info, *before)) {
    log::info("waiting name={}: a newer process of that name may come back", info.name);
    return;
  }
  const auto arrival = members_.on_register(link, info);
  if (!arrival.is_ok()) {
    ++counters_.refused;
    log::warn("refused kind={} name={} why=\"{}\"", to_string(info.kind), info.name,
              arrival.status().message());
    events_.add(Severity::warning, "refused", info.name,
                fmt::format("{} may not join: {}", to_string(info.kind),
                            arrival.status().message()));
    ack.code = arrival.status().code();
    ack.message = arrival.status().message();
    outbox_.send(link, std::move(ack));
    return;
  }
  ++counters_.registrations;
  if (!obeyed(info.name, info.orchestrator_generation)) return;
  ack.orchestrator_generation = options_.generation;
  // One that left and is back before its end was noticed, as in a rolling restart.
  if (*arrival == Membership::Arrival::replaced)
    ++(was_to_go ? counters_.departures : counters_.losses);
  log::info("registered kind={} name={} pid={} endpoint={} epoch={} held={}{}",
            to_string(info.kind), info.name, info.pid, info.endpoint, info.epoch, info.held.size(),
            *arrival == Membership::Arrival::again ? " again=1" : "");
  note_arrival(info, *arrival, was_to_go);
  outbox_.send(link, std::move(ack));
  admit(*members_.find(info.name), *arrival);
  begin_when_settled();
  flush();
}

/// Whether a process registers that a newer one of its name had displaced, whose own link is down by
/// now. It is neither welcome yet nor to end: once the newer one is lost, answer_stranger() asks it.
bool Coordinator::is_older_than_silent(const wire::Register& info, const Member& member) {
  return member.state != MemberState::lost && member.link == 0 &&
         info.incarnation < member.info.incarnation;
}

void Coordinator::note_arrival(const wire::Register& info, Membership::Arrival arrival,
                               bool was_to_go) {
  const std::string what =
      fmt::format("{} of process {} at {}{}", to_string(info.kind), info.pid, info.endpoint,
                  info.held.empty() ? "" : fmt::format(", holds {} replicas", info.held.size()));
  switch (arrival) {
    case Membership::Arrival::joined:
      return events_.add(Severity::info, "joined", info.name, what);
    case Membership::Arrival::replaced:
      return events_.add(was_to_go ? Severity::info : Severity::warning, "restarted", info.name,
                         what + (was_to_go ? ": the process before it has drained and ended"
                                           : ": the process before it is gone"));
    case Membership::Arrival::again:
      return events_.add(Severity::info, "registered", info.name, what + ", on a new link");
  }
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

void Coordinator::learn(const Member& member, const wire::Heartbeat& beat) {
  const auto kind = member.info.kind;
  pools_.observe(kind, beat.name, beat.incarnation, beat.load, clock_.now());
  if (kind == ServiceKind::expert) load_.add(beat.expert_tokens);
  if (kind != ServiceKind::attention) return;
  worker_view_.observe(beat.name, beat.workers);
  for (const wire::WorkerSeen& seen : beat.workers)
    if (const Member* const worker = members_.find(seen.name)) note_slow(*worker);
}

void Coordinator::note_slow(const Member& worker) {
  const std::string& name = worker.info.name;
  const auto summary = seen(worker);
  if (summary.slow && slow_.insert(name).second) {
    log::warn("slow worker={} speed={:.2f}: shards route around it", name, summary.speed);
    events_.add(Severity::warning, "slow", name,
                fmt::format("takes {:.1f} times as long as the median worker: shards go around it",
                            1 / summary.speed));
  }
  if (!summary.slow && slow_.erase(name) > 0) {
    log::info("not slow any more worker={} speed={:.2f}", name, summary.speed);
    events_.add(Severity::info, "not slow", name,
                fmt::format("takes {:.1f} times as long as the median worker", 1 / summary.speed));
  }
}

void Coordinator::note_suspect(const Member& member, MemberState before, const std::string& why) {
  if (before == MemberState::alive && member.state == MemberState::suspect)
    events_.add(Severity::warning, "suspect", member.info.name, why);
}

void Coordinator::on_heartbeat(transport::LinkId link, const wire::Heartbeat& beat) {
  if (superseded_by_ != 0) return;
  const Member* const before = members_.find(beat.name);
  const bool was_suspect = before != nullptr && before->state == MemberState::suspect;
  const auto revived = members_.on_heartbeat(link, beat);
  if (!revived.is_ok()) return answer_stranger(link, beat);
  if (!obeyed(beat.name, beat.orchestrator_generation)) return;
  epochs_.observe_epoch(beat.epoch);
  if (was_suspect) events_.add(Severity::info, "alive", beat.name, "speaks again");
  learn(*members_.find(beat.name), beat);
  if (!*revived) return repeat_if_behind(*members_.find(beat.name));
  log::info("back name={}", beat.name);
  events_.add(Severity::info, "back", beat.name, "was lost and speaks again");
  admit(*members_.find(beat.name), Membership::Arrival::joined);
  flush();
}

/// A registration that does not follow was lost: the answer makes the member send it again. An
/// older process hears nothing while the one that replaced it is there.
void Coordinator::answer_stranger(transport::LinkId link, const wire::Heartbeat& beat) {
  ++counters_.strangers;
  const Member* const successor = members_.find(beat.name);
  if (successor != nullptr && successor->state != MemberState::lost &&
      successor->info.incarnation > beat.incarnation)
    return;
  const Nanoseconds now = clock_.now();
  std::erase_if(strangers_, [&](auto& entry) { return now - entry.second > kStrangerPeriod; });
  if (strangers_.size() >= kStrangersMax) return;
  const auto [known, fresh] = strangers_.try_emplace(beat.name, now + kPatience);
  if (fresh || now < known->second) return;
  known->second = now + kStrangerPeriod;
  log::info("asking to register name={}", beat.name);
  outbox_.send(link, wire::Ack{beat.incarnation, Code::not_found,
                               fmt::format("{} is not registered here", beat.name),
                               options_.generation});
}

/// A link may drop what it has no room for, and stay up.
void Coordinator::repeat_if_behind(const Member& member) {
  const std::string name = member.info.name;
  const ServiceKind kind = member.info.kind;
  const Nanoseconds now = clock_.now();
  if (!epochs_.is_behind(name, kind, member.epoch)) return members_.set_repeat_at(name, 0);
  if (member.repeat_at == 0) return members_.set_repeat_at(name, now + kPatience);
  if (now < member.repeat_at) return;
  members_.set_repeat_at(name, now + kRepeatPeriod);
  log::debug("repeating to name={} epoch={} theirs={}", name, epochs_.epoch(), member.epoch);
  if (kind != ServiceKind::expert) send_placement(member);
  epochs_.repeat_to(name);
  flush();
}

void Coordinator::on_link_down(transport::LinkId link) {
  if (superseded_by_ != 0) return;
  const Member* const member = members_.find_by_link(link);
  if (member == nullptr || !epochs_.dismissed(member->info.name)) {
    const MemberState before = member == nullptr ? MemberState::lost : member->state;
    members_.on_link_down(link);
    if (member != nullptr) note_suspect(*member, before, "its link is down");
    return;
  }
  left(std::string(member->info.name));
  flush();
}

/// Whether the member has been told to leave, or has said that it leaves: its end is no loss.
bool Coordinator::is_to_go(const Member& member) const {
  if (member.info.kind == ServiceKind::expert) return epochs_.dismissed(member.info.name);
  return member.draining;
}

/// A member is gone that was to go.
void Coordinator::left(const std::string& name) {
  const Member& member = *members_.find(name);
  ++counters_.departures;
  log::info("left kind={} name={} pid={}", to_string(member.info.kind), name, member.info.pid);
  events_.add(Severity::info, "left", name,
              fmt::format("{} has drained and ended", to_string(member.info.kind)));
  epochs_.worker_lost(name);
  epochs_.shard_lost(name);
  forget(name);
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
  if (superseded_by_ != 0) return serving();
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
    events_.add(Severity::warning, "drain refused", names.front(), possible.message());
    return possible;
  }
  for (const std::string& name : fresh) begin_drain(name);
  flush();
  return Status::ok();
}

void Coordinator::begin_drain(const std::string& name) {
  ++counters_.drains;
  log::info("draining name={}", name);
  events_.add(Severity::info, "draining", name, "what it holds goes elsewhere, then it ends");
  members_.set_draining(name, true);
  epochs_.drain(name);
}

Status Coordinator::undrain(const std::string& name) {
  if (superseded_by_ != 0) return serving();
  FULGUR_RETURN_IF_ERROR(check_drainable(name));
  if (!members_.find(name)->draining) return Status::ok();
  FULGUR_RETURN_IF_ERROR(epochs_.undrain(name));
  log::info("drains no more name={}", name);
  events_.add(Severity::info, "undrained", name, "its drain was taken back");
  members_.set_draining(name, false);
  flush();
  return Status::ok();
}

void Coordinator::on_drain(transport::LinkId link, const wire::Drain& message) {
  if (superseded_by_ != 0) return;
  const Member* const member = members_.find(message.name);
  const bool known = member != nullptr && member->link == link;
  if (known && member->info.kind == ServiceKind::attention) {
    // It has begun to leave: whoever else is there, nothing new may go to it.
    if (!member->draining) begin_drain(message.name);
    return flush();
  }
  const Status asked = known ? drain({message.name})
                             : error(Code::not_found, "{} is not registered here", message.name);
  if (asked.is_ok()) return;
  const std::uint64_t id = member == nullptr ? 0 : member->info.incarnation;
  outbox_.send(link, wire::Ack{id, asked.code(), asked.message(), options_.generation});
}

// ---------------------------------------------------------------- time

void Coordinator::on_report(const wire::Report& report) {
  if (superseded_by_ != 0 || epochs_.dismissed(report.worker)) return;
  ++counters_.reports;
  log::info("report by={} worker={} code={}", report.name, report.worker, to_string(report.code));
  const Member* const reported = members_.find(report.worker);
  const MemberState before = reported == nullptr ? MemberState::lost : reported->state;
  members_.on_report(report);
  if (reported != nullptr)
    note_suspect(*reported, before,
                 fmt::format("{} reports: {}", report.name, to_string(report.code)));
  tick();
}

void Coordinator::on_prepared(const wire::Prepared& message) {
  if (superseded_by_ != 0) return;
  epochs_.on_prepared(message);
  flush();
}

void Coordinator::on_switched(const wire::Switched& message) {
  if (superseded_by_ != 0) return;
  epochs_.on_switched(message);
  flush();
}

void Coordinator::tick() {
  if (superseded_by_ != 0) return;
  for (const std::string& name : members_.expire()) {
    const Member& member = *members_.find(name);
    if (is_to_go(member)) {
      left(name);
      continue;
    }
    ++counters_.losses;
    log::warn("lost kind={} name={} pid={}", to_string(member.info.kind), name, member.info.pid);
    events_.add(Severity::error, "lost", name,
                fmt::format("{} of process {}", to_string(member.info.kind), member.info.pid));
    forget(name);
    if (member.info.kind == ServiceKind::expert) epochs_.worker_lost(name);
    if (member.info.kind == ServiceKind::attention) epochs_.shard_lost(name);
  }
  begin_when_settled();
  epochs_.tick();
  flush();
  note_serving();
  tick_pools();
}

/// Says so when the mesh begins to serve and when it does not any more.
void Coordinator::note_serving() {
  const Status serving = epochs_.serving();
  const std::string now = serving.is_ok() ? "every expert has a replica and there is a shard"
                                          : serving.message();
  if (now == said_of_serving_ || epochs_.phase() == Epochs::Phase::settling) return;
  said_of_serving_ = now;
  events_.add(serving.is_ok() ? Severity::info : Severity::error,
              serving.is_ok() ? "serving" : "not serving", "", now);
}

void Coordinator::tick_pools() {
  if (!epochs_.placement()) return;
  const bool first = pools_.experts().replicas() + pools_.attention().replicas() == 0;
  const auto wanted = std::pair(pools_.experts().wanted(), pools_.attention().wanted());
  const auto serve = [this](ServiceKind kind) {
    return static_cast<std::uint32_t>(members_.count(kind, MemberState::alive) -
                                      members_.count_draining(kind));
  };
  pools_.tick(serve(ServiceKind::expert), serve(ServiceKind::attention), clock_.now());
  if (first) return;
  note_wanted("experts", wanted.first, pools_.experts());
  note_wanted("attention", wanted.second, pools_.attention());
}

void Coordinator::note_wanted(std::string_view pool, std::uint32_t before,
                              const ScalingSignal& signal) {
  if (signal.wanted() == before) return;
  events_.add(Severity::info, "wanted", "",
              fmt::format("{}: {} wanted after {}, {} serve ({}, busy {:.2f})", pool,
                          signal.wanted(), before, signal.replicas(), signal.reason(),
                          signal.busy()));
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
