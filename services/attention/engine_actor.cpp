#include "services/attention/engine_actor.hpp"

#include "common/base/log.hpp"
#include "common/wire/codec.hpp"

namespace fulgur::attention {
namespace {

constexpr Nanoseconds kTickPeriod = 50 * kMillisecond;

}  // namespace

EngineActor::EngineActor(actor::Self& self, Shard* shard)
    : self_(self),
      shard_(*shard),
      engine_(*shard->engine),
      orchestrator_(*shard->transport, shard->options.registration.name, [this] {
        wire::Register registration = shard_.options.registration;
        registration.epoch = epoch_;
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
      },
      [this](const BatchDone& message) { on_batch_done(message.batch); },
      [this](const actor::Received<wire::Placement>& received) { on_placement(received.body); },
      [this](const actor::Received<wire::Ack>& received) { on_ack(received.body); },
      [this](const actor::Received<wire::Drain>&) { leave(); },
      [this](const actor::LinkUp& up) { orchestrator_.on_up(up); },
      [this](const actor::LinkDown& down) { on_link_down(down); },
      [this](const Say& message) { orchestrator_.say(message.body); },
      [this](Pump) { pump(); },
      [this](Tick) { tick(); },
      [this](Leave) { leave(); },
  };
}

void EngineActor::on_submit(actor::Received<wire::Submit>& received) {
  if (draining_) {
    send(received.link, wire::Done{received.body.request, wire::FinishReason::error,
                                   Code::unavailable, "this shard is draining", 0});
    return;
  }
  publish(engine_.submit(received.link, received.trace, received.deadline_ns,
                         std::move(received.body)));
  schedule_pump();
}

void EngineActor::on_batch_done(const MicroBatchPtr& batch) {
  const Nanoseconds started = shard_.clock->now();
  Outcome outcome = engine_.complete(batch);
  shard_.busy.head += shard_.clock->now() - started;
  publish(std::move(outcome));
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
  while (MicroBatchPtr batch = engine_.next()) actor::tell(shard_.layers.front(), Forward{batch});
  if (draining_ && engine_.idle()) {
    draining_ = false;
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
  log::warn("router does not keep up, its link is closed why=\"{}\"", sent.message());
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
  epoch_ = placement.epoch;
  actor::tell(shard_.dispatch, AdoptPlacement{placement});
}

void EngineActor::on_link_down(const actor::LinkDown& down) {
  orchestrator_.on_down(down);
  engine_.cancel_all(down.link);
}

void EngineActor::on_ack(const wire::Ack& ack) {
  if (!orchestrator_.accept_generation(ack.orchestrator_generation)) return;
  if (ack.code != Code::ok) {
    shard_.options.on_fatal("the orchestrator refused this shard: " + ack.message);
  }
}

void EngineActor::tick() {
  actor::tell_after(self_, kTickPeriod, &self_, Tick{});
  publish(engine_.expire());
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
  if (draining_) return;
  log::info("draining running={} waiting={}", engine_.scheduler().running(),
            engine_.scheduler().waiting());
  draining_ = true;
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
  load.busy_ns_total = static_cast<std::uint64_t>(shard_.busy.total());
  load.kv_pages_used = scheduler.pages().used();
  load.kv_pages_total = scheduler.pages().total();
  load.state_slots_used = scheduler.slots().used();
  load.state_slots_total = scheduler.slots().total();
  return load;
}

}  // namespace fulgur::attention
