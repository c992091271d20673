#include "services/orchestrator/epochs.hpp"

#include <algorithm>

#include <fmt/ranges.h>

#include "common/base/log.hpp"

namespace fulgur::orchestrator {
namespace {

std::string plural(std::uint64_t count, std::string_view noun) {
  return fmt::format("{} {}{}", count, noun, count == 1 ? "" : "s");
}

}  // namespace

std::string_view to_string(Epochs::Phase phase) {
  switch (phase) {
    case Epochs::Phase::settling:
      return "settling";
    case Epochs::Phase::idle:
      return "idle";
    case Epochs::Phase::preparing:
      return "preparing";
    case Epochs::Phase::switching:
      return "switching";
  }
  return "unknown";
}

Epochs::Worker Epochs::make_worker(const wire::Register& info) const {
  Worker worker;
  worker.incarnation = info.incarnation;
  worker.endpoint = info.endpoint;
  worker.capacity = options_.shape.cells();
  if (options_.expert_bytes > 0 && info.capacity_bytes > 0)
    worker.capacity = std::min(worker.capacity, info.capacity_bytes / options_.expert_bytes);
  worker.capacity_whole = worker.capacity;
  worker.draining = info.draining;
  worker.domain = info.failure_domain;
  worker.held = ReplicaMap(options_.shape);
  for (const auto& [layer, expert] : info.held)
    if (layer < options_.shape.layers && expert < options_.shape.experts)
      worker.held.add(layer, expert);
  return worker;
}

std::uint64_t Epochs::next_epoch() { return ++epoch_seen_; }

void Epochs::begin() {
  if (phase_ != Phase::settling) return;
  phase_ = Phase::idle;
  plan();
}

// ---------------------------------------------------------------- members

void Epochs::worker_joined(const wire::Register& info) {
  observe_epoch(info.epoch);
  const bool replaced = workers_.contains(info.name);
  workers_.insert_or_assign(info.name, make_worker(info));
  if (phase_ == Phase::settling) return;
  if (replaced)
    plan_without(info.name);
  else
    replan();
}

/// Plans now, or as soon as the running change has ended.
void Epochs::replan() {
  if (phase_ == Phase::idle)
    plan();
  else
    joined_since_ = true;
}

void Epochs::worker_lost(const std::string& name) {
  if (workers_.erase(name) == 0 || phase_ == Phase::settling) return;
  plan_without(name);
}

void Epochs::worker_again(const wire::Register& info) {
  observe_epoch(info.epoch);
  const auto found = workers_.find(info.name);
  if (found == workers_.end()) return;
  const bool moved = found->second.endpoint != info.endpoint;
  found->second.endpoint = info.endpoint;
  if (moved && has_committed_) publish_change();
  repeat_to(info.name);
}

bool Epochs::is_behind(const std::string& name, wire::ServiceKind kind, std::uint64_t epoch) const {
  if (kind == wire::ServiceKind::expert) {
    const bool awaited = phase_ == Phase::preparing && awaited_.contains(name);
    return awaited || told_to_drain(name);
  }
  if (told_to_drain(name)) return true;
  if (!has_committed_) return false;
  // A larger one is that of an orchestrator before this one, which had not heard of it in time.
  return epoch != committed_epoch_ || (phase_ == Phase::switching && awaited_.contains(name));
}

void Epochs::repeat_to(const std::string& name) {
  if (phase_ == Phase::preparing && workers_.contains(name) && awaited_.contains(name))
    actions_.push_back(PrepareTo{name, prepare_message(target_.at(name))});
  if (told_to_drain(name)) actions_.push_back(DrainTo{name, {name, generation_}});
}

bool Epochs::told_to_drain(const std::string& name) const {
  const auto shard = shards_.find(name);
  return dismissed(name) || (shard != shards_.end() && !shard->second.accepting);
}

void Epochs::shard_joined(const wire::Register& info) {
  observe_epoch(info.epoch);
  shards_.insert_or_assign(
      info.name, wire::ShardEntry{info.name, info.incarnation, info.endpoint, !info.draining});
  if (has_committed_) publish_change();
  if (info.draining) actions_.push_back(DrainTo{info.name, {info.name, generation_}});
}

void Epochs::shard_lost(const std::string& name) {
  if (shards_.erase(name) == 0 || !has_committed_) return;
  if (phase_ == Phase::switching) awaited_.erase(name);
  publish_change();
  finish_if_switched();
}

/// Takes a worker that is gone (or came back empty) out of what is published and plans again.
void Epochs::plan_without(const std::string& worker) {
  if (phase_ == Phase::preparing) phase_ = Phase::idle;  // what was prepared is no longer wanted
  if (committed_.erase(worker) > 0) publish_change();
  plan();
}

/// Publishes the committed assignment again under a new number, because its members changed. A
/// prepare under way carries a lower number by now, so it starts again; what is loaded stays
/// loaded.
void Epochs::publish_change() {
  committed_epoch_ = next_epoch();
  actions_.push_back(Publish{*placement()});
  if (phase_ != Phase::preparing) return;
  target_epoch_ = next_epoch();
  std::erase_if(target_, [&](const auto& entry) { return !workers_.contains(entry.first); });
  send_prepares();
}

// ---------------------------------------------------------------- plan and prepare

PlacementInput Epochs::planning_input(bool forced) const {
  PlacementInput input;
  input.shape = options_.shape;
  input.replicas = options_.replicas;
  input.forced = forced;
  input.since_change = clock_.now() - changed_at_;
  input.policy = options_.policy;
  input.policy.interval_min = options_.rebalance_interval;
  PlanningHints hints;
  if (options_.rebalance_interval > 0 && options_.hints) {
    hints = options_.hints();
    input.spare = options_.spare;
    input.load = std::move(hints.load);
  }
  for (const auto& [name, worker] : workers_) {
    if (worker.left_out) continue;
    PlacementWorker planned{name, worker.dismissed ? 0 : worker.capacity, worker.held};
    planned.domain = worker.domain;
    planned.draining = worker.draining;
    // A change of members is planned as if all were equally fast: who is slow this second may be so
    // because of the change, and shards route around a slow worker by themselves.
    if (const auto speed = hints.speeds.find(name); !forced && speed != hints.speeds.end())
      planned.speed = speed->second;
    input.workers.push_back(std::move(planned));
  }
  return input;
}

/// `forced`: members have changed; else only what is worth its moves is done.
void Epochs::plan(bool forced) {
  if (forced) joined_since_ = false;
  PlacementInput input = planning_input(forced);
  auto planned = plan_placement(input);
  std::string waiting_drain;
  if (!planned.is_ok()) {
    waiting_drain = "a drain waits for capacity: " + planned.status().message();
    for (PlacementWorker& worker : input.workers) worker.draining = false;
    planned = plan_placement(input);
  }
  const auto& workers = input.workers;
  if (planned.is_ok()) balance_ = planned->by_load ? planned->after.excess() : 0;
  if (!forced && (!planned.is_ok() || planned->kept)) return;
  phase_ = Phase::idle;
  awaited_.clear();
  if (!planned.is_ok()) {
    problem_ = planned.status().message();
    log::warn("no placement possible why=\"{}\"", problem_);
    events_.add(Severity::error, "placement", "", "no placement is possible: " + problem_);
    return;
  }
  problem_ = waiting_drain.empty() ? planned->shortfall : waiting_drain;
  if (!problem_.empty()) {
    log::warn("fewer replicas than wanted why=\"{}\"", problem_);
    events_.add(Severity::warning, "placement", "", problem_);
  }
  Assignment wanted;
  for (std::size_t i = 0; i < workers.size(); ++i) wanted[workers[i].name] = planned->assigned[i];
  if (has_committed_ && wanted == committed_ && !unretired_) return dismiss_drained();
  if (!forced) {
    ++rebalances_total_;
    log::info("re-balancing moves={} excess_before={:.3f} excess_after={:.3f}", planned->moves,
              planned->before.excess(), planned->after.excess());
    events_.add(Severity::info, "rebalancing", "",
                fmt::format("placement follows the load: slowest worker over the mean goes from "
                            "{:.2f} to {:.2f}",
                            planned->before.excess(), planned->after.excess()));
  }
  start_prepare(*planned, workers);
}

void Epochs::start_prepare(const PlacementPlan& plan, const std::vector<PlacementWorker>& workers) {
  target_.clear();
  target_epoch_ = next_epoch();
  target_replicas_ = plan.replicas;
  phase_ = Phase::preparing;
  unretired_ = true;
  deadline_ = clock_.now() + options_.prepare_timeout;
  phase_since_ = clock_.now();
  target_moves_ = plan.moves;
  moves_total_ += plan.moves;
  if (plan.moves > 0) changed_at_ = clock_.now();
  left_out_.clear();
  for (std::size_t i = 0; i < workers.size(); ++i) {
    const std::string& name = workers[i].name;
    target_[name] = plan.assigned[i];
    if (workers_.at(name).draining && plan.assigned[i].count() == 0) left_out_.insert(name);
  }
  send_prepares();
  log::info("preparing epoch={} workers={} replicas={} moves={}", target_epoch_, workers.size(),
            plan.replicas, plan.moves);
  events_.add(Severity::info, "preparing", "",
              fmt::format("epoch {}: {} to load for {}, {} of every expert", target_epoch_,
                          plural(plan.moves, "replica"), plural(workers.size(), "worker"),
                          plan.replicas));
}

void Epochs::send_prepares() {
  awaited_.clear();
  for (const auto& [name, replicas] : target_) {
    if (left_out_.contains(name)) continue;
    awaited_.insert(name);
    actions_.push_back(PrepareTo{name, prepare_message(replicas)});
  }
  asked_ = awaited_.size();
}

wire::Prepare Epochs::prepare_message(const ReplicaMap& replicas) const {
  return {target_epoch_, generation_, options_.shape.layers, options_.shape.experts,
          replicas.words(), urgent_of(replicas)};
}

/// Those of `replicas` that no live worker serves: whoever waits for them waits for this load.
std::vector<std::uint64_t> Epochs::urgent_of(const ReplicaMap& replicas) const {
  ReplicaMap served(options_.shape);
  for (const auto& [name, held] : committed_)
    if (workers_.contains(name)) served.add(held);
  std::vector<std::uint64_t> urgent = replicas.words();
  bool any = false;
  for (std::size_t i = 0; i < urgent.size(); ++i) any |= (urgent[i] &= ~served.words()[i]) != 0;
  if (!any) urgent.clear();
  return urgent;
}

void Epochs::on_prepared(const wire::Prepared& message) {
  const auto found = workers_.find(message.name);
  if (phase_ != Phase::preparing || found == workers_.end()) return;
  if (found->second.incarnation != message.incarnation || message.epoch != target_epoch_) return;
  if (message.code != Code::ok) {
    worker_failed(message.name, message.message);
    return;
  }
  if (awaited_.erase(message.name) == 0) return;
  if (found->second.retry_at == 0) found->second.failures = 0;
  found->second.held.add(target_.at(message.name));
  if (awaited_.empty()) commit();
}

/// A worker that cannot load keeps what it has; one that fails again gets nothing, and one that
/// cannot even do that is left out of plans: until it has had time to recover.
void Epochs::worker_failed(const std::string& name, const std::string& why) {
  Worker& worker = workers_.at(name);
  const bool trusted = worker.retry_at == 0;
  worker.left_out = !trusted && worker.capacity == 0;
  worker.capacity = trusted ? std::min(worker.capacity, worker.held.count()) : 0;
  Nanoseconds wait = options_.retry_min;
  for (std::uint32_t i = 0; i < worker.failures && wait < options_.retry_max; ++i) wait *= 2;
  ++worker.failures;
  wait = std::min(wait, options_.retry_max);
  worker.retry_at = clock_.now() + wait;
  log::error("worker={} cannot prepare epoch={} capacity_now={} again_in_s={} why=\"{}\"", name,
             target_epoch_, worker.capacity, wait / kSecond, why);
  events_.add(Severity::error, "load failed", name,
              fmt::format("cannot load its replicas of epoch {}, is trusted again in {} s: {}",
                          target_epoch_, wait / kSecond, why));
  if (worker.left_out)
    plan_without(name);
  else
    plan();
}

void Epochs::retry_failed() {
  bool any = false;
  for (auto& [name, worker] : workers_) {
    if (worker.retry_at == 0 || clock_.now() < worker.retry_at) continue;
    log::info("worker={} is trusted to load again failures={}", name, worker.failures);
    events_.add(Severity::info, "trusted", name, "is trusted to load replicas again");
    worker.retry_at = 0;
    worker.capacity = worker.capacity_whole;
    worker.left_out = false;
    any = true;
  }
  if (any) replan();
}

// ---------------------------------------------------------------- commit, switch, retire

void Epochs::commit() {
  committed_ = target_;
  committed_epoch_ = target_epoch_;
  committed_replicas_ = target_replicas_;
  has_committed_ = true;
  phase_ = Phase::switching;
  deadline_ = clock_.now() + options_.switch_timeout;
  actions_.push_back(Publish{*placement()});
  phase_since_ = clock_.now();
  for (const auto& [name, shard] : shards_) awaited_.insert(name);
  asked_ = awaited_.size();
  log::info("committed epoch={} workers={} shards={} replicas={}", committed_epoch_,
            committed_.size(), shards_.size(), committed_replicas_);
  events_.add(Severity::info, "committed", "",
              fmt::format("epoch {}: {}, {}, {} of every expert", committed_epoch_,
                          plural(committed_.size(), "worker"), plural(shards_.size(), "shard"),
                          plural(committed_replicas_, "replica")));
  finish_if_switched();
}

void Epochs::on_switched(const wire::Switched& message) {
  const auto shard = shards_.find(message.name);
  if (phase_ != Phase::switching || shard == shards_.end()) return;
  if (shard->second.incarnation != message.incarnation || message.epoch < target_epoch_) return;
  awaited_.erase(message.name);
  finish_if_switched();
}

void Epochs::finish_if_switched() {
  if (phase_ == Phase::switching && awaited_.empty()) finish_switch(true);
}

void Epochs::finish_switch(bool retire) {
  phase_ = Phase::idle;
  awaited_.clear();
  if (retire) {
    unretired_ = false;
    events_.add(Severity::info, "retired", "",
                fmt::format("epoch {}: every shard routes by it, older replicas are freed",
                            target_epoch_));
    for (const auto& [name, replicas] : target_) {
      const auto worker = workers_.find(name);
      if (worker == workers_.end() || left_out_.contains(name)) continue;
      actions_.push_back(RetireTo{name, {target_epoch_, generation_}});
      worker->second.held = replicas;
    }
  }
  dismiss_drained();
  if (joined_since_) plan();
}

void Epochs::tick() {
  retry_failed();
  const bool weighs = options_.rebalance_interval > 0 && phase_ == Phase::idle && has_committed_;
  if (weighs && clock_.now() - weighed_at_ >= options_.rebalance_interval) {
    weighed_at_ = clock_.now();
    plan(false);
  }
  if (clock_.now() < deadline_) return;
  if (phase_ == Phase::preparing) {
    const std::string name = *awaited_.begin();
    worker_failed(name, "no answer to Prepare in time");
  } else if (phase_ == Phase::switching) {
    // Freeing under a shard that still routes by the old epoch only costs Nacks, but nothing
    // hurries.
    log::warn("shard={} has not switched to epoch={}: old replicas are kept", *awaited_.begin(),
              target_epoch_);
    events_.add(Severity::warning, "not switched", *awaited_.begin(),
                fmt::format("still routes by an epoch before {}: older replicas are kept",
                            target_epoch_));
    finish_switch(false);
  }
}

// ---------------------------------------------------------------- drain

Status Epochs::can_drain_shards(const std::set<std::string>& names) const {
  const auto leaves = [&](const auto& shard) { return names.contains(shard.first); };
  const bool any = std::any_of(shards_.begin(), shards_.end(), leaves);
  const bool left = std::any_of(shards_.begin(), shards_.end(), [&](const auto& shard) {
    return !leaves(shard) && shard.second.accepting;
  });
  if (!any || left) return Status::ok();
  return error(Code::failed_precondition,
               "no other attention shard would accept requests: {} cannot drain",
               fmt::join(names, ", "));
}

Status Epochs::can_drain(const std::set<std::string>& names) const {
  if (!has_committed_)
    return error(Code::unavailable, "no placement is committed yet ({})", to_string(phase_));
  FULGUR_RETURN_IF_ERROR(can_drain_shards(names));
  ReplicaMap elsewhere(options_.shape);
  std::uint64_t room = 0;
  std::size_t others = 0;
  bool any = false;
  for (const auto& [name, worker] : workers_) {
    any |= names.contains(name);
    if (names.contains(name) || worker.draining) continue;
    ++others;
    room += worker.capacity;
    if (const auto held = committed_.find(name); held != committed_.end())
      elsewhere.add(held->second);
  }
  if (!any || room >= options_.shape.cells()) return Status::ok();
  std::uint64_t first = 0;
  const auto served = [&](std::uint64_t cell) {
    return elsewhere.contains(static_cast<std::uint32_t>(cell / options_.shape.experts),
                              static_cast<std::uint32_t>(cell % options_.shape.experts));
  };
  while (first + 1 < options_.shape.cells() && served(first)) ++first;
  return error(Code::failed_precondition,
               "without {} no worker has capacity for expert {} of layer {} and {} more: {} other "
               "expert workers have room for {} of {}",
               fmt::join(names, ", "), first % options_.shape.experts,
               first / options_.shape.experts, options_.shape.cells() - room - 1, others, room,
               options_.shape.cells());
}

void Epochs::drain(const std::string& name) {
  if (const auto worker = workers_.find(name); worker != workers_.end()) {
    if (std::exchange(worker->second.draining, true)) return;
    replan();
  }
  if (const auto shard = shards_.find(name); shard != shards_.end()) {
    if (!std::exchange(shard->second.accepting, false)) return;
    if (has_committed_) publish_change();
    actions_.push_back(DrainTo{name, {name, generation_}});
  }
}

Status Epochs::undrain(const std::string& name) {
  const auto worker = workers_.find(name);
  const auto shard = shards_.find(name);
  const bool told = worker != workers_.end()
                        ? worker->second.dismissed
                        : shard != shards_.end() && !shard->second.accepting;
  if (told) return error(Code::failed_precondition, "{} has been told to leave already", name);
  if (worker != workers_.end() && std::exchange(worker->second.draining, false)) replan();
  return Status::ok();
}

bool Epochs::dismissed(const std::string& name) const {
  const auto worker = workers_.find(name);
  return worker != workers_.end() && worker->second.dismissed;
}

void Epochs::dismiss_drained() {
  if (phase_ != Phase::idle || !has_committed_) return;
  for (auto& [name, worker] : workers_) {
    if (!worker.draining || worker.dismissed || replicas_on(name) > 0) continue;
    worker.dismissed = true;
    actions_.push_back(DrainTo{name, {name, generation_}});
  }
}

// ---------------------------------------------------------------- views

std::optional<wire::Placement> Epochs::placement() const {
  if (!has_committed_) return std::nullopt;
  wire::Placement placement;
  placement.epoch = committed_epoch_;
  placement.orchestrator_generation = generation_;
  placement.layers = options_.shape.layers;
  placement.experts = options_.shape.experts;
  for (const auto& [name, replicas] : committed_) {
    const Worker& worker = workers_.at(name);
    placement.workers.push_back({name, worker.incarnation, worker.endpoint, replicas.words()});
  }
  for (const auto& [name, shard] : shards_) placement.shards.push_back(shard);
  return placement;
}

Status Epochs::serving() const {
  if (!has_committed_)
    return error(Code::unavailable, "no placement committed yet ({}{}{})", to_string(phase_),
                 problem_.empty() ? "" : ": ", problem_);
  ReplicaMap covered(options_.shape);
  for (const auto& [name, replicas] : committed_) covered.add(replicas);
  if (covered.count() < options_.shape.cells())
    return error(Code::unavailable, "{} of {} experts have no live replica",
                 options_.shape.cells() - covered.count(), options_.shape.cells());
  if (shards_.empty()) return Status(Code::unavailable, "no attention shard is in the mesh");
  return Status::ok();
}

std::optional<Epochs::Change> Epochs::change() const {
  if (phase_ != Phase::preparing && phase_ != Phase::switching) return std::nullopt;
  return Change{target_epoch_, target_moves_, phase_since_, awaited_, asked_};
}

std::uint64_t Epochs::replicas_on(const std::string& worker) const {
  const auto found = committed_.find(worker);
  return found == committed_.end() ? 0 : found->second.count();
}

}  // namespace fulgur::orchestrator
