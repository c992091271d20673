#include "services/router/mesh_actor.hpp"

#include <algorithm>
#include <utility>

#include "common/base/log.hpp"
#include "common/wire/codec.hpp"

namespace fulgur::router {
namespace {

constexpr Nanoseconds kHeartbeatEvery = 500 * kMillisecond;

}  // namespace

MeshActor::MeshActor(actor::Self& self, MeshDeps* deps) : self_(self), deps_(*deps) {}

caf::behavior MeshActor::make_behavior() {
  self_.set_down_handler([this](const caf::down_msg& down) { on_session_down(down.source); });
  if (!deps_.orchestrator.empty()) {
    const auto link = deps_.transport->connect(deps_.orchestrator, deps_.carrier);
    if (link.is_ok()) {
      orchestrator_ = *link;
    } else {
      log::error("cannot connect to the orchestrator why=\"{}\"", link.status().message());
    }
  }
  actor::tell_after(self_, kHeartbeatEvery, actor::Handle(&self_), HeartbeatDue{});
  return {
      [this](const actor::LinkUp& event) { on_link_up(event); },
      [this](const actor::LinkDown& event) { on_link_down(event); },
      [this](const actor::Received<wire::Placement>& message) { on_placement(message.body); },
      [this](const actor::Received<wire::Ack>& message) { on_ack(message.body); },
      [this](actor::Received<wire::Tokens>& message) { on_tokens(message.body); },
      [this](const actor::Received<wire::Done>& message) { on_done(message.body); },
      [this](const actor::Received<wire::Drain>&) {
        if (deps_.on_drain) deps_.on_drain();
      },
      [this](SubmitChoice& order) { on_submit(order); },
      [this](const ReleaseChoice& order) { on_release(order); },
      [this](const Leaving&) { on_leaving(); },
      [this](const HeartbeatDue&) { on_heartbeat_due(); },
  };
}

Status MeshActor::send(transport::LinkId link, wire::Body body, std::int64_t deadline_ns,
                       const TraceContext& trace) {
  wire::Message message;
  message.sender = deps_.registration.name;
  message.deadline_ns = deadline_ns;
  message.trace = trace;
  message.body = std::move(body);
  return deps_.transport->send(link, wire::encode(message));
}

void MeshActor::register_here() {
  wire::Register registration = deps_.registration;
  registration.epoch = epoch_;
  const Status sent = send(orchestrator_, std::move(registration));
  if (!sent.is_ok()) log::warn("cannot register why=\"{}\"", sent.message());
}

/// Told beforehand, the orchestrator does not take the end for a death.
void MeshActor::on_leaving() {
  deps_.registration.draining = true;
  if (orchestrator_up_) register_here();
}

void MeshActor::on_link_up(const actor::LinkUp& event) {
  if (event.link == orchestrator_) {
    orchestrator_up_ = true;
    log::info("orchestrator connected name={}", event.peer.name);
    return register_here();
  }
  Shard* shard = picker_.by_link(event.link);
  if (shard == nullptr) return;
  shard->up = true;
  shard->leaving = false;
  log::info("shard connected name={}", shard->name);
  update_ready();
  retry_waiting();
}

void MeshActor::on_link_down(const actor::LinkDown& event) {
  if (event.link == orchestrator_) {
    orchestrator_up_ = false;  // running traffic goes on by the placement known
    return log::warn("orchestrator lost why=\"{}\"", event.why.message());
  }
  Shard* shard = picker_.by_link(event.link);
  if (shard == nullptr) return;
  log::warn("shard lost name={} sequences={} why=\"{}\"", shard->name, shard->running,
            event.why.message());
  shard->up = false;
  const std::string name = shard->name;
  for (auto it = running_.begin(); it != running_.end();) {
    const auto current = it++;
    if (current->second.shard != name) continue;
    actor::tell(current->second.session, ChoiceLost{current->first});
    forget(current);
  }
  for (const auto link : picker_.take_unused()) deps_.transport->close(link);
  update_ready();
}

void MeshActor::on_placement(const wire::Placement& placement) {
  const std::pair theirs(placement.orchestrator_generation, placement.epoch);
  // An Ack may have told of the generation before: its epochs count from its first placement.
  const bool old = placement.orchestrator_generation < generation_ ||
                   theirs < std::pair(placed_generation_, epoch_);
  if (old) {
    return log::warn("ignored an old placement epoch={} generation={}", placement.epoch,
                     placement.orchestrator_generation);
  }
  std::tie(placed_generation_, epoch_) = theirs;
  generation_ = placed_generation_;
  const ShardPicker::Changes changes = picker_.apply(placement.shards);
  for (const auto link : changes.disconnect) {
    for (auto it = running_.begin(); it != running_.end();) {
      const auto current = it++;
      const Shard* shard = picker_.find(current->second.shard);
      if (shard != nullptr && shard->link != 0) continue;
      actor::tell(current->second.session, ChoiceLost{current->first});
      forget(current);
    }
    deps_.transport->close(link);
  }
  for (const auto& name : changes.connect) connect_shard(name);
  update_ready();
  retry_waiting();
}

void MeshActor::connect_shard(const std::string& name) {
  Shard* shard = picker_.find(name);
  const auto link = deps_.transport->connect(shard->endpoint, deps_.carrier);
  if (!link.is_ok()) {
    return log::warn("cannot connect to shard name={} endpoint={} why=\"{}\"", name,
                     shard->endpoint, link.status().message());
  }
  shard->link = *link;
}

void MeshActor::on_ack(const wire::Ack& ack) {
  generation_ = std::max(generation_, ack.orchestrator_generation);
  if (ack.code == Code::ok) return;
  log::warn("the orchestrator refused code={} why=\"{}\"", to_string(ack.code), ack.message);
  if (ack.code == Code::not_found && orchestrator_up_) register_here();  // it has restarted
}

void MeshActor::on_tokens(wire::Tokens& tokens) {
  auto& events = tokens.events;
  for (std::size_t begin = 0; begin < events.size();) {
    std::size_t end = begin + 1;
    while (end < events.size() && events[end].request == events[begin].request) ++end;
    if (const auto found = running_.find(events[begin].request); found != running_.end()) {
      ChoiceTokens message{events[begin].request, {}};
      message.events.assign(std::make_move_iterator(events.begin() + begin),
                            std::make_move_iterator(events.begin() + end));
      actor::tell(found->second.session, std::move(message));
    }
    begin = end;
  }
}

void MeshActor::on_done(const wire::Done& done) {
  const auto found = running_.find(done.request);
  if (found == running_.end()) return;
  actor::tell(found->second.session, ChoiceDone{done, found->second.shard});
  if (Shard* shard = picker_.find(found->second.shard); shard != nullptr && done.draining) {
    shard->leaving = true;
    update_ready();
  }
  forget(found);
}

void MeshActor::forget(std::map<std::uint64_t, Running>::iterator running) {
  Shard* shard = picker_.find(running->second.shard);
  if (shard != nullptr && shard->running > 0) --shard->running;
  running_.erase(running);
}

void MeshActor::on_submit(SubmitChoice& order) {
  ++requests_total_;
  actor::watch(self_, order.session);
  if (place(order)) return;
  if (order.patient) {
    waiting_.push_back(std::move(order));
  } else {
    actor::tell(order.session, ChoiceRefused{order.submit.request, why_refused()});
  }
}

bool MeshActor::place(const SubmitChoice& order) {
  std::vector<std::string> avoid = order.avoid;
  while (Shard* shard = picker_.pick(order.prefix, avoid, order.prefer)) {
    const Status sent = send(shard->link, order.submit, order.deadline_ns, order.trace);
    if (sent.is_ok()) {
      ++shard->running;
      running_[order.submit.request] = {order.session, shard->name, order.deadline_ns};
      return true;
    }
    log::warn("shard does not take a sequence name={} why=\"{}\"", shard->name, sent.message());
    avoid.push_back(shard->name);
  }
  return false;
}

Status MeshActor::why_refused() const {
  if (picker_.ready()) return {Code::resource_exhausted, "every attention shard is full"};
  return {Code::unavailable, "no attention shard is ready"};
}

void MeshActor::retry_waiting() {
  for (std::size_t left = waiting_.size(); left > 0; --left) {
    SubmitChoice order = std::move(waiting_.front());
    waiting_.pop_front();
    order.avoid.clear();  // whoever refused before may have room or a new life by now
    if (!place(order)) waiting_.push_back(std::move(order));
  }
}

void MeshActor::on_release(const ReleaseChoice& order) {
  std::erase_if(waiting_, [&](const SubmitChoice& waiting) {
    return waiting.submit.request == order.request;
  });
  const auto found = running_.find(order.request);
  if (found == running_.end()) return;
  const Shard* shard = picker_.find(found->second.shard);
  if (order.cancel && shard != nullptr && shard->up) {
    const Status sent = send(shard->link, wire::Cancel{order.request});
    if (!sent.is_ok()) log::warn("cannot cancel why=\"{}\"", sent.message());
  }
  forget(found);
  for (const auto link : picker_.take_unused()) deps_.transport->close(link);
}

/// A session that broke leaves nothing running behind.
void MeshActor::on_session_down(const caf::actor_addr& session) {
  std::vector<std::uint64_t> left;
  for (const auto& [request, running] : running_) {
    if (running.session.address() == session) left.push_back(request);
  }
  for (const auto& order : waiting_) {
    if (order.session.address() == session) left.push_back(order.submit.request);
  }
  for (const auto request : left) on_release({request, true});
}

void MeshActor::on_heartbeat_due() {
  actor::tell_after(self_, kHeartbeatEvery, actor::Handle(&self_), HeartbeatDue{});
  enforce_deadlines();
  retry_waiting();
  if (orchestrator_up_) send_heartbeat();
}

/// One sweep instead of a timer a request: no request is more than one heartbeat late.
void MeshActor::enforce_deadlines() {
  const std::int64_t now = deps_.clock->wall_now();
  for (const auto& [request, running] : running_) {
    if (running.deadline_ns <= now) actor::tell(running.session, DeadlineReached{});
  }
  for (const auto& order : waiting_) {
    if (order.deadline_ns <= now) actor::tell(order.session, DeadlineReached{});
  }
}

void MeshActor::send_heartbeat() {
  wire::Heartbeat beat;
  beat.name = deps_.registration.name;
  beat.incarnation = deps_.registration.incarnation;
  beat.epoch = epoch_;
  beat.load.running = static_cast<std::uint32_t>(running_.size());
  beat.load.waiting = static_cast<std::uint32_t>(waiting_.size());
  beat.load.tokens_total = static_cast<std::uint64_t>(deps_.metrics->generated_tokens.Value());
  beat.load.requests_total = requests_total_;
  const auto first = deps_.metrics->first_token_s.Collect().histogram;
  const auto inter = deps_.metrics->inter_token_s.Collect().histogram;
  beat.load.first_tokens_total = first.sample_count;
  beat.load.first_token_ns_total = static_cast<std::uint64_t>(first.sample_sum * 1e9);
  beat.load.inter_tokens_total = inter.sample_count;
  beat.load.inter_token_ns_total = static_cast<std::uint64_t>(inter.sample_sum * 1e9);
  beat.orchestrator_generation = generation_;
  const Status sent = send(orchestrator_, std::move(beat));
  if (!sent.is_ok()) log::debug("heartbeat not sent why=\"{}\"", sent.message());
}

void MeshActor::update_ready() {
  deps_.ready.store(picker_.ready());
  const auto up = std::ranges::count_if(picker_.shards(),
                                        [](const auto& item) { return item.second.up; });
  deps_.metrics->shards_up.Set(static_cast<double>(up));
}

}  // namespace fulgur::router
