#include "services/attention/expert_dispatch.hpp"

#include <algorithm>

#include "common/base/log.hpp"
#include "common/telemetry/hot_path.hpp"

namespace fulgur::attention {
namespace {

constexpr Nanoseconds kAvoidFor = 1 * kSecond;
constexpr Nanoseconds kFirstLinkIn = 2 * kSecond;  // before that no new worker is unreachable
constexpr double kSameSpeed = 1.25;  // slowness within this factor of 1 is noise
constexpr double kSlow = 4.0;        // beyond it a worker is reported …
constexpr double kSlowPenalty = 2.0;  // … and left alone more than its speed alone would say
constexpr double kOverdue = 20.0;     // times what is usual: asking another holder costs the work twice
constexpr double kProbeShare = 0.01;  // of the time, at most, goes into trying a slow worker
constexpr Nanoseconds kProbeGapMin = 20 * kMillisecond;
constexpr Nanoseconds kProbeGapMax = 8 * kSecond;
constexpr std::uint64_t kSplitRowsMin = 32;  // rows of an expert that are worth reading it twice

bool by_expert_then_row(const wire::Route& a, const wire::Route& b) {
  if (a.expert != b.expert) return a.expert < b.expert;
  return a.row != b.row ? a.row < b.row : a.slot < b.slot;
}

}  // namespace

ExpertDispatch::ExpertDispatch(std::string name, DispatchOptions options, const Clock& clock,
                               Hooks hooks)
    : name_(std::move(name)), options_(options), clock_(clock), hooks_(std::move(hooks)) {}

bool ExpertDispatch::set_placement(const wire::Placement& placement) {
  const std::pair theirs(placement.orchestrator_generation, placement.epoch);
  if (theirs <= std::pair(generation_, epoch_)) return false;
  generation_ = placement.orchestrator_generation;
  epoch_ = placement.epoch;
  layers_ = placement.layers;
  experts_ = placement.experts;
  std::map<std::string, Worker> previous = std::move(workers_);
  workers_.clear();
  for (const auto& entry : placement.workers) {
    Worker worker;
    if (auto known = previous.find(entry.name); known != previous.end()) {
      if (known->second.endpoint == entry.endpoint) {
        worker = std::move(known->second);
        previous.erase(known);
      }
    }
    if (worker.incarnation != entry.incarnation) worker.pace = WorkerPace(clock_.now());
    worker.name = entry.name;
    worker.incarnation = entry.incarnation;
    worker.endpoint = entry.endpoint;
    worker.replicas = entry.replicas;
    if (worker.link == 0) {
      worker.link = hooks_.connect(entry.endpoint);
      worker.link_due = clock_.now() + kFirstLinkIn;
    }
    workers_[entry.name] = std::move(worker);
  }
  // What a worker that left the placement still owes goes to its successors at once.
  for (auto& [name, worker] : previous) {
    if (worker.link != 0) hooks_.disconnect(worker.link);
    retry_all_of(name);
  }
  log::info("placement epoch={} workers={}", epoch_, workers_.size());
  retry_parked();
  return true;
}

ExpertDispatch::Worker* ExpertDispatch::by_link(transport::LinkId link) {
  for (auto& [name, worker] : workers_) {
    if (worker.link == link && link != 0) return &worker;
  }
  return nullptr;
}

void ExpertDispatch::on_link_up(transport::LinkId link) {
  Worker* worker = by_link(link);
  if (worker == nullptr) return;
  worker->up = true;
  worker->link_due = 0;
  worker->avoid_until = 0;
  worker->pace = WorkerPace(clock_.now());
  retry_parked();
}

void ExpertDispatch::on_link_down(transport::LinkId link) {
  Worker* worker = by_link(link);
  if (worker == nullptr || !worker->up) return;
  worker->up = false;
  const bool drained = std::all_of(worker->replicas.begin(), worker->replicas.end(),
                                   [](std::uint64_t word) { return word == 0; });
  if (drained && worker->outstanding == 0) return;  // it left as it was to
  ++stats_.workers_lost_total;
  log::warn("lost worker={} outstanding={}", worker->name, worker->outstanding);
  hooks_.report({name_, worker->name, worker->incarnation, Code::unavailable});
  retry_all_of(worker->name);
}

bool ExpertDispatch::holds(const Worker& worker, std::uint32_t layer, std::uint32_t expert) const {
  const std::size_t at = std::size_t{layer} * experts_ + expert;
  return at / 64 < worker.replicas.size() && ((worker.replicas[at / 64] >> (at % 64)) & 1U) != 0;
}

std::uint32_t ExpertDispatch::holders(std::uint32_t layer, std::uint32_t expert) const {
  return static_cast<std::uint32_t>(
      std::count_if(workers_.begin(), workers_.end(), [&](const auto& entry) {
        return entry.second.up && holds(entry.second, layer, expert);
      }));
}

// ---------------------------------------------------------------- which replica

double ExpertDispatch::pace_of(const Worker& worker) const {
  const double owed = worker.outstanding == 0 ? 0.0 : units(worker.load / worker.outstanding);
  return worker.pace.value(clock_.now(), owed);
}

/// Nanoseconds a unit of the lower median of the reachable workers that were measured; 0 for none.
double ExpertDispatch::median_pace() const {
  std::vector<double> paces;
  for (const auto& [name, worker] : workers_) {
    if (worker.up && worker.pace.measured()) paces.push_back(pace_of(worker));
  }
  if (paces.empty()) return 0;
  const auto middle = paces.begin() + static_cast<std::ptrdiff_t>((paces.size() - 1) / 2);
  std::nth_element(paces.begin(), middle, paces.end());
  return *middle;
}

void ExpertDispatch::compare_workers() {
  const double median = median_pace();
  for (auto& [name, worker] : workers_) {
    const double pace = pace_of(worker);
    worker.slowness = median > 0 && pace > 0 ? pace / median : 1.0;
    if (worker.slowness < kSameSpeed && worker.slowness * kSameSpeed > 1) worker.slowness = 1.0;
    if (worker.slowness <= 1.0) worker.probe_at = 0;
    if (worker.slowness >= kSlow) worker.slowness *= kSlowPenalty;
  }
}

/// The holder that should be done first with `cost` more, after what it owes and what this batch
/// `added` already.
ExpertDispatch::Worker* ExpertDispatch::choose(std::uint32_t layer, std::uint32_t expert,
                                               std::uint64_t cost,
                                               const std::map<std::string, std::uint64_t>& added) {
  Worker* best = nullptr;
  std::pair<bool, double> best_key;
  const Nanoseconds now = clock_.now();
  for (auto& [name, worker] : workers_) {
    if (!worker.up || !holds(worker, layer, expert)) continue;
    if (worker.outstanding >= options_.outstanding_max) continue;
    const auto extra = added.find(name);
    const std::uint64_t ahead = worker.load + (extra == added.end() ? 0 : extra->second);
    const std::pair key{worker.avoid_until > now, units(ahead + cost) * worker.slowness};
    if (best == nullptr || key < best_key) {
      best = &worker;
      best_key = key;
    }
  }
  return best;
}

/// A slower, idle holder whose time to be tried again has come. How long that takes goes by how long
/// the trial may take.
ExpertDispatch::Worker* ExpertDispatch::choose_probe(
    std::uint32_t layer, std::uint32_t expert, std::uint64_t cost,
    const std::map<std::string, std::uint64_t>& added) {
  const Nanoseconds now = clock_.now();
  for (auto& [name, worker] : workers_) {
    if (!worker.up || worker.slowness <= 1.0 || worker.outstanding > 0 || added.contains(name))
      continue;
    if (!holds(worker, layer, expert) || worker.avoid_until > now) continue;
    const double gap = std::clamp(pace_of(worker) * units(cost) / kProbeShare,
                                  static_cast<double>(kProbeGapMin),
                                  static_cast<double>(kProbeGapMax));
    const bool due = worker.probe_at != 0 && now >= worker.probe_at;
    if (due || worker.probe_at == 0) worker.probe_at = now + static_cast<Nanoseconds>(gap);
    if (!due) continue;
    ++stats_.probes_total;
    return &worker;
  }
  return nullptr;
}

std::vector<wire::WorkerSeen> ExpertDispatch::workers_seen() const {
  const double median = median_pace();
  std::vector<wire::WorkerSeen> seen;
  for (const auto& [name, worker] : workers_) {
    wire::WorkerSeen entry;
    entry.name = name;
    entry.incarnation = worker.incarnation;
    entry.reachable = worker.up || (worker.link != 0 && clock_.now() < worker.link_due);
    const double pace = pace_of(worker);
    if (pace > 0 && median > 0 && worker.pace.well_measured()) {
      entry.speed = static_cast<float>(median / pace);
      entry.slow = pace >= kSlow * median;
    }
    seen.push_back(std::move(entry));
  }
  return seen;
}

void ExpertDispatch::run(MicroBatchPtr batch, std::uint32_t layer) {
  const std::uint32_t k = options_.experts_per_token;
  const std::size_t count = std::size_t{batch->rows()} * k;
  batch->outputs.assign(count, nullptr);
  batch->frames.clear();  // combined: the routes of this layer were computed after that
  batch->routes_missing = static_cast<std::uint32_t>(count);
  std::vector<wire::Route> routes(count);
  for (std::uint32_t at = 0; at < count; ++at) {
    routes[at] = {at / k, static_cast<std::uint16_t>(at % k), batch->experts[at]};
  }
  stats_.routes_total += count;
  assign(batch, layer, std::move(routes), clock_.now());
}

void ExpertDispatch::assign(const MicroBatchPtr& batch, std::uint32_t layer,
                            std::vector<wire::Route> routes, Nanoseconds since) {
  std::sort(routes.begin(), routes.end(), by_expert_then_row);
  compare_workers();
  const std::vector<Group> groups = group(layer, routes);
  std::map<std::string, std::uint64_t> cost;
  std::map<std::string, std::vector<wire::Route>> chosen;
  Routes unplaced{batch, layer, {}, since};
  for (const Group& group : groups) {
    const auto first = routes.begin() + static_cast<std::ptrdiff_t>(group.begin);
    const auto last = routes.begin() + static_cast<std::ptrdiff_t>(group.end);
    const std::uint64_t group_cost = options_.expert_cost_rows + group.rows();
    Worker* worker = nullptr;
    // The lightest group is what a slow worker is tried with.
    if (&group == &groups.back()) worker = choose_probe(layer, first->expert, group_cost, cost);
    if (worker == nullptr) worker = choose(layer, first->expert, group_cost, cost);
    if (worker == nullptr) {
      unplaced.routes.insert(unplaced.routes.end(), first, last);
      continue;
    }
    cost[worker->name] += group_cost;
    auto& list = chosen[worker->name];
    list.insert(list.end(), first, last);
  }
  for (auto& [name, list] : chosen) {
    std::sort(list.begin(), list.end(), by_expert_then_row);
    std::vector<wire::Route> kept = list;
    if (!send_part(workers_[name], {batch, layer, std::move(list), since}, cost[name])) {
      unplaced.routes.insert(unplaced.routes.end(), kept.begin(), kept.end());
    }
  }
  if (unplaced.routes.empty()) return;
  ++stats_.parked_total;
  parked_.push_back(std::move(unplaced));
}

/// Routes (sorted) by expert, heaviest first. An expert's rows stay together, so that one worker
/// reads its weights once, unless they are more than a worker's fair share of the batch and other
/// workers hold the expert too.
std::vector<ExpertDispatch::Group> ExpertDispatch::group(
    std::uint32_t layer, const std::vector<wire::Route>& routes) const {
  std::vector<Group> whole;
  for (std::size_t begin = 0; begin < routes.size();) {
    std::size_t end = begin;
    while (end < routes.size() && routes[end].expert == routes[begin].expert) ++end;
    whole.push_back({begin, end});
    begin = end;
  }
  const auto up = static_cast<std::uint64_t>(std::count_if(
      workers_.begin(), workers_.end(), [](const auto& entry) { return entry.second.up; }));
  const std::uint64_t all = routes.size() + whole.size() * options_.expert_cost_rows;
  const std::uint64_t share =
      std::max({all / std::max<std::uint64_t>(up, 1), kSplitRowsMin,
                std::uint64_t{2} * options_.expert_cost_rows});
  std::vector<Group> groups;
  for (const Group& each : whole) {
    std::uint64_t parts = 1;
    if (each.rows() > share)
      parts = std::clamp<std::uint64_t>((each.rows() + share - 1) / share, 1,
                                        std::max(holders(layer, routes[each.begin].expert), 1U));
    for (std::uint64_t part = 0; part < parts; ++part)
      groups.push_back({each.begin + each.rows() * part / parts,
                        each.begin + each.rows() * (part + 1) / parts});
  }
  std::stable_sort(groups.begin(), groups.end(),
                   [](const Group& a, const Group& b) { return a.rows() > b.rows(); });
  return groups;
}

bool ExpertDispatch::send_part(Worker& worker, Routes work, std::uint64_t cost) {
  const auto& [batch, layer, routes, since] = work;
  // Each token row travels once, however many of its experts live on this worker.
  std::vector<std::uint32_t> rows;
  rows.reserve(routes.size());
  for (const auto& route : routes) rows.push_back(route.row);
  std::sort(rows.begin(), rows.end());
  rows.erase(std::unique(rows.begin(), rows.end()), rows.end());

  wire::Dispatch dispatch;
  dispatch.id = next_id_++;
  dispatch.epoch = epoch_;
  dispatch.layer = layer;
  dispatch.rows = static_cast<std::uint32_t>(rows.size());
  dispatch.hidden = options_.hidden;
  dispatch.dtype = options_.dtype;
  dispatch.routes = routes;
  for (auto& route : dispatch.routes) {
    route.row = static_cast<std::uint32_t>(std::lower_bound(rows.begin(), rows.end(), route.row) -
                                           rows.begin());
  }
  auto packed = hooks_.pack(*batch, rows);
  if (!packed.is_ok()) {
    ++stats_.unpacked_total;
    log::warn("dispatch not packed rows={} why=\"{}\"", rows.size(), packed.status().message());
    return false;
  }
  dispatch.activations = std::move(packed).value();

  const std::uint64_t id = dispatch.id;
  wire::Message message;
  message.sender = name_;
  message.deadline_ns = batch->deadline_ns;
  const auto trace = DispatchTrace::begin(options_.tracer, batch->trace, clock_);
  message.trace = trace.context(batch->trace);
  message.body = std::move(dispatch);
  if (auto sent = hooks_.send(worker.link, std::move(message)); !sent.is_ok()) {
    log::warn("dispatch not sent worker={} why=\"{}\"", worker.name, sent.message());
    worker.avoid_until = clock_.now() + kAvoidFor;
    return false;
  }
  ++stats_.dispatches_total;
  for (std::size_t at = 0; at < routes.size(); ++at) {
    stats_.expert_groups_total += at == 0 || routes[at].expert != routes[at - 1].expert ? 1 : 0;
  }
  const Nanoseconds now = clock_.now();
  const bool alone = worker.outstanding == 0;
  worker.pace.sent(now, alone);
  ++worker.outstanding;
  worker.load += cost;
  parts_.emplace(id, Part{std::move(work), worker.name, cost, now, alone, trace});
  return true;
}

void ExpertDispatch::forget(std::map<std::uint64_t, Part>::iterator part) {
  if (auto worker = workers_.find(part->second.worker); worker != workers_.end()) {
    worker->second.load -= std::min(worker->second.load, part->second.cost);
    worker->second.outstanding -= std::min(worker->second.outstanding, 1U);
  }
  parts_.erase(part);
}

void ExpertDispatch::end_trace(const Part& part, const wire::Combine* answer,
                               std::string_view why) {
  if (part.trace.id == 0) return;
  part.trace.end(*options_.tracer, part.work.batch->trace, part.worker, part.work.routes.size(),
                 answer, why, clock_.now());
}

void ExpertDispatch::on_combine(transport::LinkId link, wire::Combine combine) {
  const auto found = parts_.find(combine.id);
  if (found == parts_.end()) return;  // answered twice, or re-routed meanwhile
  Part& part = found->second;
  Worker* worker = by_link(link);
  const std::vector<wire::Route>& routes = part.work.routes;
  const bool fits = combine.routes == routes.size() && combine.hidden == options_.hidden &&
                    combine.dtype == options_.dtype && combine.layer == part.work.layer;
  if (!fits || worker == nullptr || worker->name != part.worker) {
    log::warn("answer does not fit its dispatch worker={}", part.worker);
    retry(combine.id, true);
    return;
  }
  const MicroBatchPtr batch = part.work.batch;
  const std::uint32_t layer = part.work.layer;
  const std::size_t row_bytes = options_.hidden * size_of(options_.dtype);
  for (std::size_t at = 0; at < routes.size(); ++at) {
    const auto& route = routes[at];
    batch->outputs[route.row * options_.experts_per_token + route.slot] =
        combine.outputs.data + at * row_bytes;
  }
  batch->frames.push_back(std::move(combine.outputs));
  batch->routes_missing -= static_cast<std::uint32_t>(routes.size());
  worker->pace.answered(clock_.now(), units(part.cost), part.alone && worker->outstanding == 1);
  stats_.queue_us_total += combine.queue_us;
  stats_.compute_us_total += combine.compute_us;
  if (telemetry::hot_path_on())
    stats_.round_trip_us_total +=
        static_cast<std::uint64_t>((clock_.now() - part.sent) / kMicrosecond);
  end_trace(part, &combine);
  const bool had_no_credit = worker->outstanding >= options_.outstanding_max;
  forget(found);
  if (had_no_credit) retry_parked();
  if (batch->routes_missing == 0) hooks_.done(batch, layer);
}

void ExpertDispatch::on_nack(transport::LinkId link, const wire::Nack& nack) {
  const auto found = parts_.find(nack.id);
  if (found == parts_.end()) return;
  ++stats_.nacks_total;
  Worker* worker = by_link(link);
  if (worker != nullptr && nack.reason == wire::NackReason::draining) {
    worker->replicas.assign(worker->replicas.size(), 0);
  }
  if (nack.reason == wire::NackReason::invalid) {
    const MicroBatchPtr batch = found->second.work.batch;
    const std::uint32_t layer = found->second.work.layer;
    const std::string who = found->second.worker;
    end_trace(found->second, nullptr, "called invalid");
    forget(found);
    fail(batch, layer, error(Code::internal, "worker {} calls a dispatch of layer {} invalid", who, layer));
    return;
  }
  retry(nack.id, true);
}

void ExpertDispatch::retry(std::uint64_t id, bool avoid_worker) {
  const auto found = parts_.find(id);
  end_trace(found->second, nullptr, "asked of another worker");
  Routes work = std::move(found->second.work);
  const std::string worker = found->second.worker;
  forget(found);
  ++stats_.retries_total;
  const Nanoseconds now = clock_.now();
  if (auto known = workers_.find(worker); avoid_worker && known != workers_.end()) {
    known->second.avoid_until = now + kAvoidFor;
  }
  // When the only holder is the one that refused, asking again at once would spin: tick() asks.
  const bool alone = std::none_of(workers_.begin(), workers_.end(), [&](const auto& entry) {
    return entry.second.up && entry.second.avoid_until <= now &&
           holds(entry.second, work.layer, work.routes.front().expert);
  });
  if (alone) {
    parked_.push_back(std::move(work));
    return;
  }
  assign(work.batch, work.layer, std::move(work.routes), work.since);
}

void ExpertDispatch::retry_all_of(const std::string& worker) {
  std::vector<std::uint64_t> ids;
  for (const auto& [id, part] : parts_) {
    if (part.worker == worker) ids.push_back(id);
  }
  for (const std::uint64_t id : ids) retry(id, false);
}

void ExpertDispatch::retry_parked() {
  std::vector<Routes> waiting = std::move(parked_);
  parked_.clear();
  for (auto& parked : waiting) {
    if (!parked.batch->failure.is_ok()) continue;
    assign(parked.batch, parked.layer, std::move(parked.routes), parked.since);
  }
}

/// Whether a part takes far longer than its worker's whole queue should. A process that is stopped or
/// stuck keeps its links, so its silence is all there is to see.
bool ExpertDispatch::is_overdue(const Part& part, double median) const {
  const auto worker = workers_.find(part.worker);
  const std::uint64_t owed = worker == workers_.end() ? part.cost : worker->second.load;
  const auto patience = static_cast<Nanoseconds>(kOverdue * median * units(owed));
  return clock_.now() - part.sent >= std::max(options_.patience_min, patience);
}

/// Whether every expert of a part has another holder that can be asked now.
bool ExpertDispatch::others_hold(const Part& part) const {
  return std::ranges::all_of(part.work.routes, [&](const wire::Route& route) {
    return std::ranges::any_of(workers_, [&](const auto& entry) {
      const Worker& worker = entry.second;
      return entry.first != part.worker && worker.up && worker.avoid_until <= clock_.now() &&
             worker.outstanding < options_.outstanding_max &&
             holds(worker, part.work.layer, route.expert);
    });
  });
}

/// Gives up on an answer; if it comes after all, nobody knows its id any more.
void ExpertDispatch::ask_others(std::uint64_t id) {
  const Part& part = parts_.at(id);
  if (const auto worker = workers_.find(part.worker); worker != workers_.end())
    worker->second.pace.answered(clock_.now(), units(part.cost), false);
  retry(id, true);
}

void ExpertDispatch::tick() {
  const Nanoseconds now = clock_.now();
  const double median = median_pace();
  std::vector<std::uint64_t> late;
  for (const auto& [id, part] : parts_) {
    if (now - part.sent >= options_.silence_max || is_overdue(part, median)) late.push_back(id);
  }
  for (const std::uint64_t id : late) {
    const auto part = parts_.find(id);
    if (part == parts_.end()) continue;
    if (now - part->second.sent >= options_.silence_max) {
      const auto worker = workers_.find(part->second.worker);
      if (worker != workers_.end())
        hooks_.report({name_, worker->first, worker->second.incarnation, Code::deadline_exceeded});
      ask_others(id);
    } else if (others_hold(part->second)) {
      ++stats_.overdue_total;
      ask_others(id);
    }
  }
  // What waited too long fails before it is tried again, or a refusing worker could keep it for ever.
  const std::vector<Routes> waiting = parked_;
  for (const auto& parked : waiting) {
    const bool late = now - parked.since >= options_.wait_max ||
                      (parked.batch->deadline_ns != 0 &&
                       clock_.wall_now() >= parked.batch->deadline_ns);
    if (!late || !parked.batch->failure.is_ok()) continue;
    fail(parked.batch, parked.layer,
         error(Code::unavailable, "no live worker holds expert {} of layer {}",
               parked.routes.front().expert, parked.layer));
  }
  retry_parked();
}

void ExpertDispatch::fail(const MicroBatchPtr& batch, std::uint32_t layer, Status why) {
  batch->failure = std::move(why);
  std::vector<std::uint64_t> ids;
  for (const auto& [id, part] : parts_) {
    if (part.work.batch == batch) ids.push_back(id);
  }
  for (const std::uint64_t id : ids) {
    end_trace(parts_.at(id), nullptr, "given up");
    forget(parts_.find(id));
  }
  parked_.erase(std::remove_if(parked_.begin(), parked_.end(),
                               [&](const Routes& parked) { return parked.batch == batch; }),
                parked_.end());
  hooks_.done(batch, layer);
}

bool ExpertDispatch::quiet() const {
  return parts_.empty() && parked_.empty() &&
         std::all_of(workers_.begin(), workers_.end(), [](const auto& entry) {
           return entry.second.outstanding == 0 && entry.second.load == 0;
         });
}

bool ExpertDispatch::complete() const {
  if (layers_ == 0) return false;
  for (std::uint32_t layer = 0; layer < layers_; ++layer) {
    for (std::uint32_t expert = 0; expert < experts_; ++expert) {
      const bool served = std::any_of(workers_.begin(), workers_.end(), [&](const auto& entry) {
        return entry.second.up && holds(entry.second, layer, expert);
      });
      if (!served) return false;
    }
  }
  return true;
}

}  // namespace fulgur::attention
