#include "services/expert/expert_layer_actor.hpp"

#include "common/base/log.hpp"
#include "common/telemetry/hot_path.hpp"
#include "common/wire/codec.hpp"

namespace fulgur::expert {
namespace {

constexpr Nanoseconds kLookAgain = 50 * kMicrosecond;

}  // namespace

ExpertLayerActor::ExpertLayerActor(actor::Self& self, WorkerContext* context, std::uint32_t layer)
    : self_(self),
      context_(*context),
      layer_(layer, context->hidden, *context->store, *context->backend, *context->clock,
             *context->pool, context->limits, context->device_time, context->scratch) {
  load_.layer = layer;
}

caf::behavior ExpertLayerActor::make_behavior() {
  return {
      [this](actor::Received<wire::Dispatch>& received) { on_dispatch(received); },
      [this](RunPending) { run_pending(); },
      [this](AskLoad) { return take_load(); },
  };
}

void ExpertLayerActor::on_dispatch(actor::Received<wire::Dispatch>& received) {
  const std::uint64_t id = received.body.id;
  const Nanoseconds arrived = telemetry::stamp(*context_.clock, received.trace);
  auto refused =
      layer_.push({received.link, received.trace, arrived, std::move(received.body)});
  if (refused) {
    send(received.link, received.trace, wire::Nack{id, context_.epoch, load_.layer, *refused});
    return;
  }
  ++load_.dispatches_total;
  if (run_queued_) return;
  // Behind the dispatches that are already in the mailbox: they join this run.
  run_queued_ = true;
  self_.send(&self_, RunPending{});
}

/// Whether the device has one run to work on and one to go on with. What waits meanwhile is merged.
bool ExpertLayerActor::device_is_full() {
  constexpr std::size_t kQueuedRunsMax = 2;
  auto& runs = context_.queued_runs;
  while (!runs.empty() && runs.front()->reached()) runs.pop_front();
  return runs.size() >= kQueuedRunsMax;
}

void ExpertLayerActor::run_pending() {
  if (device_is_full()) {
    actor::tell_after(self_, kLookAgain, &self_, RunPending{});
    return;
  }
  run_queued_ = false;
  if (!layer_.idle()) run();
  if (!layer_.idle()) {
    run_queued_ = true;
    self_.send(&self_, RunPending{});
  }
}

void ExpertLayerActor::run() {
  RunResult result = layer_.run();
  if (!result.refused.empty()) return refuse(result);
  if (result.done) context_.queued_runs.push_back(std::move(result.done));
  load_.routed_rows_total += result.routed_rows;
  ++load_.runs_total;
  load_.busy_total += result.compute;
  for (const auto& answer : result.answers)
    load_.wait_total += answer.combine.queue_us * kMicrosecond;
  if (context_.tracer != nullptr) record(result);
  for (auto& answer : result.answers) send(answer.link, answer.trace, std::move(answer.combine));
}

/// The shards ask other replicas, or this worker again a little later.
void ExpertLayerActor::refuse(const RunResult& result) {
  log::warn("no memory for a run layer={} dispatches={} why=\"{}\"", load_.layer,
            result.refused.size(), result.why);
  load_.refused_total += result.refused.size();
  for (const Pending& pending : result.refused) {
    send(pending.link, pending.trace,
         wire::Nack{pending.dispatch.id, context_.epoch, load_.layer, wire::NackReason::busy});
  }
}

/// A span for each traced dispatch of the run.
void ExpertLayerActor::record(const RunResult& result) {
  telemetry::Tracer& tracer = *context_.tracer;
  const Nanoseconds now = context_.clock->now();
  for (const auto& answer : result.answers) {
    if (!answer.trace.sampled()) continue;
    auto span =
        tracer.open("expert.run", telemetry::SpanKind::server, answer.trace, answer.arrived);
    span.set("fulgur.layer", load_.layer);
    span.set("fulgur.rows", answer.rows);
    span.set("fulgur.routes", answer.combine.routes);
    span.set("fulgur.queue_us", answer.combine.queue_us);
    span.set("fulgur.compute_us", answer.combine.compute_us);
    span.set("fulgur.batch.routes", result.routed_rows);
    span.set("fulgur.batch.dispatches", result.answers.size());
    tracer.close(span, now);
  }
}

LayerLoad ExpertLayerActor::take_load() {
  // The worker leaves when all layers have answered: not with a run that waits for the device.
  while (context_.draining && !context_.queued_runs.empty() && !layer_.idle()) run();
  load_.queued = layer_.queued();
  load_.expert_tokens.assign(context_.store->experts(), 0);
  layer_.take_expert_tokens(load_.expert_tokens);
  return load_;
}

void ExpertLayerActor::send(transport::LinkId link, const TraceContext& trace, wire::Body body) {
  wire::Message message;
  message.sender = context_.name;
  message.trace = trace;
  message.body = std::move(body);
  // A shard that is gone or does not read gets no answer; it re-dispatches by its own deadline.
  if (auto sent = context_.transport->send(link, wire::encode(message)); !sent.is_ok()) {
    log::warn("answer not sent layer={} why=\"{}\"", load_.layer, sent.message());
  }
}

}  // namespace fulgur::expert
