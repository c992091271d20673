#include "services/attention/engine_actor.hpp"

#include <tuple>
#include <utility>

#include "common/base/log.hpp"
#include "common/telemetry/hot_path.hpp"
#include "common/wire/codec.hpp"

namespace fulgur::attention {
namespace {

constexpr Nanoseconds kTickPeriod = 50 * kMillisecond;
constexpr Nanoseconds kLastWords = 2 * kSecond;  // beyond the grace, for what is still in flight

}  // namespace

EngineActor::EngineActor(actor::Self& self, Shard* shard)
    : self_(self),
      shard_(*shard),
      engine_(*shard->engine),
      orchestrator_(*shard->transport, shard->options.registration.name, [this] {
        wire::Register registration = shard_.options.registration;
        registration.epoch = epoch_;
        registration.draining = evacuation_.has_value();
        return registration;
      }) {}

caf::behavior EngineActor::make_behavior() {
  if (auto connected = orchestrator_.connect(shard_.options.orchestrator); !connected.is_ok()) {
    shard_.options.on_fatal(connected.to_string());
  }
  actor::tell_after(self_, kTickPeriod, &self_, Tick{});
  return {
      [this](actor::Received<wire::Submit>& received) { on_submit(received); },
      [this](const actor::Received<wire::Cancel>& received) {
        publish(engine_.cancel(received.link, received.body.request));
        evacuate();
      },
      [this](const BatchDone& message) { on_batch_done(message.batch); },
      [this](const actor::Received<wire::Placement>& received) { on_placement(received.body); },
      [this](const actor::Received<wire::Ack>& received) { on_ack(received.body); },
      [this](const actor::Received<wire::Drain>& received) {
        if (orchestrator_.accept_generation(received.body.orchestrator_generation)) leave();
      },
      [this](const actor::Received<wire::SnapshotOffer>& received) { on_offer(received); },
      [this](const actor::Received<wire::SnapshotChunk>& received) { on_chunk(received); },
      [this](const actor::Received<wire::SnapshotReply>& received) {
        if (evacuation_) evacuation_->on_reply(received.link, received.body);
        evacuate();
      },
      [this](const actor::Received<wire::SnapshotDrop>& received) {
        engine_.parked().on_drop(received.link, received.body);
      },
      [this](const actor::LinkUp& up) { on_link_up(up); },
      [this](const actor::LinkDown& down) { on_link_down(down); },
      [this](const Say& message) { orchestrator_.say(message.body); },
      [this](Pump) { pump(); },
      [this](Tick) { tick(); },
      [this](Leave) {
        // Routers learn it from the next placement; nothing here waits for that.
        orchestrator_.say(wire::Drain{shard_.options.registration.name, 0});
        leave();
      },
  };
}

void EngineActor::on_submit(actor::Received<wire::Submit>& received) {
  if (evacuation_) {
    wire::Done done;
    done.request = received.body.request;
    done.reason = wire::FinishReason::error;
    done.code = Code::unavailable;
    done.message = "this shard is draining";
    done.draining = true;
    return send(received.link, std::move(done));
  }
  publish(engine_.submit(received.link, received.trace, received.deadline_ns,
                         std::move(received.body)));
  schedule_pump();
}

void EngineActor::on_batch_done(const MicroBatchPtr& batch) {
  const Nanoseconds started = telemetry::stamp(*shard_.clock);
  Outcome outcome = engine_.complete(batch);
  shard_.bubble.computed_until = telemetry::stamp(*shard_.clock);
  shard_.busy.head += shard_.bubble.computed_until - started;
  publish(std::move(outcome));
  evacuate();
  schedule_pump();
}

void EngineActor::schedule_pump() {
  if (pump_queued_) return;
  // Behind the submissions already in the mailbox: they share the next micro-batch.
  pump_queued_ = true;
  self_.send(&self_, Pump{});
}

void EngineActor::pump() {
  pump_queued_ = false;
  while (MicroBatchPtr batch = engine_.next()) {
    if (batch->failure.is_ok()) {
      actor::tell(shard_.layers.front(), Forward{batch});
    } else {
      publish(engine_.complete(batch));
    }
  }
  if (!evacuation_) return;
  const bool overdue = shard_.clock->now() >= leave_by_;
  if ((engine_.idle() || overdue) && !std::exchange(left_, true)) {
    log::info("drained moved={} handed_back={}", evacuation_->stats().moved_total,
              evacuation_->stats().handed_total);
    shard_.options.on_left();
  }
}

void EngineActor::publish(Outcome outcome) {
  for (auto& [link, tokens] : outcome.tokens) send(link, std::move(tokens));
  for (auto& [link, done] : outcome.done) send(link, std::move(done));
}

void EngineActor::send(transport::LinkId link, wire::Body body) {
  wire::Message message;
  message.sender = shard_.options.registration.name;
  message.body = std::move(body);
  const Status sent = shard_.transport->send(link, wire::encode(message));
  if (sent.is_ok() || sent.code() == Code::unavailable) return;
  // A router that does not read its tokens would make this queue grow: it has lost its requests.
  log::warn("a peer does not keep up, its link is closed why=\"{}\"", sent.message());
  engine_.cancel_all(link);
  shard_.transport->close(link);  // it submits again, here or elsewhere
}

void EngineActor::on_placement(const wire::Placement& placement) {
  if (!orchestrator_.accept_generation(placement.orchestrator_generation)) return;
  const bool fits = placement.layers == shard_.config.layers &&
                    placement.experts == shard_.config.experts;
  if (!fits) {
    log::error("placement of {} layers x {} experts does not fit this model", placement.layers,
               placement.experts);
    return;
  }
  const std::pair theirs(placement.orchestrator_generation, placement.epoch);
  if (theirs < std::pair(placed_generation_, epoch_)) return;
  std::tie(placed_generation_, epoch_) = theirs;
  shards_ = placement.shards;
  if (evacuation_) {
    evacuation_->set_targets(other_shards());
    evacuate();
  }
  actor::tell(shard_.dispatch, AdoptPlacement{placement});
}

void EngineActor::on_link_down(const actor::LinkDown& down) {
  orchestrator_.on_down(down);
  engine_.cancel_all(down.link);
  peers_.erase(down.link);
  engine_.parked().on_link_down(down.link);
  if (evacuation_) evacuation_->on_link_down(down.link);
  evacuate();
}

void EngineActor::on_link_up(const actor::LinkUp& up) {
  orchestrator_.on_up(up);
  if (up.peer.kind == wire::ServiceKind::attention) peers_.insert(up.link);
  if (evacuation_) evacuation_->on_link_up(up.link);
  evacuate();
}

void EngineActor::on_offer(const actor::Received<wire::SnapshotOffer>& received) {
  if (!peers_.contains(received.link)) return engine_.parked().count_stranger();
  if (evacuation_) {
    wire::SnapshotReply reply;
    reply.transfer = received.body.transfer;
    reply.state = wire::SnapshotState::refused;
    reply.code = Code::unavailable;
    reply.message = "this shard is draining";
    return send(received.link, std::move(reply));
  }
  send(received.link, engine_.parked().on_offer(received.link, received.body));
}

void EngineActor::on_chunk(const actor::Received<wire::SnapshotChunk>& received) {
  auto reply = engine_.parked().on_chunk(received.link, received.body);
  if (reply) send(received.link, std::move(*reply));
}

void EngineActor::on_ack(const wire::Ack& ack) {
  const bool newest = orchestrator_.accept_generation(ack.orchestrator_generation);
  // An older orchestrator too: that there has been a newer one it learns from a registration alone.
  if (ack.code == Code::not_found) return orchestrator_.register_here();
  if (!newest) return;
  if (ack.code != Code::ok && evacuation_) {
    log::warn("leaving although the orchestrator is against it why=\"{}\"", ack.message);
  } else if (ack.code != Code::ok) {
    shard_.options.on_fatal("the orchestrator refused this shard: " + ack.message);
  }
}

void EngineActor::tick() {
  actor::tell_after(self_, kTickPeriod, &self_, Tick{});
  publish(engine_.expire());
  evacuate();
  schedule_pump();
  const Nanoseconds now = shard_.clock->now();
  if (now < next_beat_) return;
  next_beat_ = now + actor::kHeartbeatPeriod;
  const auto& registration = shard_.options.registration;
  wire::Heartbeat beat;
  beat.name = registration.name;
  beat.incarnation = registration.incarnation;
  beat.epoch = epoch_;
  beat.load = load();
  beat.workers = shard_.workers_seen;
  orchestrator_.say(std::move(beat));
}

void EngineActor::leave() {
  if (evacuation_) return;
  const auto others = other_shards();
  log::info("draining running={} waiting={} shards_to_move_to={}", engine_.scheduler().running(),
            engine_.scheduler().waiting(), others.size());
  evacuation_.emplace(shard_.options.evacuation, engine_.scheduler(), *shard_.clock,
                      evacuation_hooks());
  evacuation_->set_targets(others);
  leave_by_ = shard_.clock->now() + shard_.options.evacuation.grace + kLastWords;
  evacuate();
}

Evacuation::Hooks EngineActor::evacuation_hooks() {
  Evacuation::Hooks hooks;
  hooks.connect = [this](const std::string& endpoint) -> transport::LinkId {
    auto link = shard_.transport->connect(endpoint, shard_.options.expert_carrier);
    if (link.is_ok()) return *link;
    log::warn("cannot connect endpoint={} why=\"{}\"", endpoint, link.status().message());
    return 0;
  };
  hooks.send = [this](transport::LinkId link, wire::Body body) {
    wire::Message message;
    message.sender = shard_.options.registration.name;
    message.body = std::move(body);
    return shard_.transport->send(link, wire::encode(message));
  };
  hooks.hand_over = [this](SequenceId id, const std::string& moved_to, std::uint64_t snapshot) {
    engine_.hand_over(id, moved_to, snapshot, handed_over_);
  };
  return hooks;
}

std::vector<wire::ShardEntry> EngineActor::other_shards() const {
  std::vector<wire::ShardEntry> others;
  for (const wire::ShardEntry& shard : shards_) {
    if (shard.accepting && shard.name != shard_.options.registration.name) others.push_back(shard);
  }
  return others;
}

void EngineActor::evacuate() {
  if (!evacuation_) return;
  evacuation_->advance();
  publish(std::exchange(handed_over_, {}));
  shard_.evacuation_stats = evacuation_->stats();
  schedule_pump();
}

wire::Load EngineActor::load() const {
  const Scheduler& scheduler = engine_.scheduler();
  wire::Load load;
  load.running = scheduler.running();
  load.waiting = scheduler.waiting();
  load.queue_depth = load.waiting;
  load.tokens_total = engine_.stats().generated_tokens_total;
  load.requests_total = engine_.stats().requests_total;
  load.wait_ns_total = engine_.stats().wait_ns_total;
  load.busy_ns_total = static_cast<std::uint64_t>(shard_.busy.total());
  load.kv_pages_used = scheduler.pages().used();
  load.kv_pages_total = scheduler.pages().total();
  load.state_slots_used = scheduler.slots().used();
  load.state_slots_total = scheduler.slots().total();
  return load;
}

}  // namespace fulgur::attention
