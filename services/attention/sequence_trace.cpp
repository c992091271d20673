#include "services/attention/sequence_trace.hpp"

#include <algorithm>
#include <utility>

#include "services/attention/micro_batch.hpp"

namespace fulgur::attention {
namespace {

using telemetry::SpanKind;

std::string_view name_of(wire::FinishReason reason) {
  switch (reason) {
    case wire::FinishReason::stop:
      return "stop";
    case wire::FinishReason::length:
      return "length";
    case wire::FinishReason::cancelled:
      return "cancelled";
    case wire::FinishReason::error:
      return "error";
  }
  return "error";
}

}  // namespace

SequenceTrace::SequenceTrace(telemetry::Tracer& tracer, const TraceContext& parent,
                             const wire::Submit& submit, Nanoseconds now, TraceLimits limits)
    : tracer_(tracer),
      limits_(limits),
      stay_(tracer.open("shard.sequence", SpanKind::server, parent, now)),
      details_left_(limits.details) {
  stay_.set("fulgur.request", submit.request);
  stay_.set("fulgur.tokens", submit.tokens.size());
  stay_.set("fulgur.prompt_tokens", submit.prompt_tokens);
  open(queue_, "shard.queue", now);
}

void SequenceTrace::open(Open& span, const char* name, Nanoseconds now) {
  span = tracer_.open(name, SpanKind::internal, stay_.context(), now);
}

void SequenceTrace::close(Open& span, Nanoseconds now) {
  if (!span) return;
  tracer_.close(*span, now);
  span.reset();
}

TraceContext SequenceTrace::begin_step(const Slice& slice, const MicroBatch& batch,
                                       Nanoseconds now) {
  close(queue_, now);
  const bool prompt = !decode_ || slice.rows > 1;  // or tokens computed again after a preemption
  if (!prefill_ && !decode_) {
    open(prefill_, "shard.prefill", now);
    prefill_->set("fulgur.cached_tokens", slice.position);
  }
  std::uint32_t& count = prompt ? chunks_ : steps_;
  Open& phase = decode_ ? decode_ : prefill_;
  if (++count > (prompt ? limits_.chunks : limits_.steps)) return {};
  step_ = tracer_.open(prompt ? "shard.prefill_chunk" : "shard.decode_step", SpanKind::internal,
                       phase->context(), now);
  step_->set("fulgur.position", slice.position);
  step_->set("fulgur.rows", slice.rows);
  step_->set("fulgur.batch.rows", batch.rows());
  step_->set("fulgur.batch.sequences", batch.slices.size());
  return step_->context();
}

void SequenceTrace::link_step(const TraceContext& other) {
  if (step_) step_->links.push_back(other);
}

void SequenceTrace::end_step(Nanoseconds now) { close(step_, now); }

void SequenceTrace::copied(std::string_view what, Nanoseconds now) {
  close(queue_, now);
  stay_.events.push_back({what, now});
}

void SequenceTrace::token(Nanoseconds now) {
  if (!decode_) {
    if (prefill_) prefill_->set("fulgur.chunks", chunks_);
    close(step_, now);
    close(prefill_, now);
    open(decode_, "shard.decode", now);
  }
  if (++tokens_ <= limits_.token_events) {
    decode_->events.push_back({"token", now});
  } else {
    ++decode_->events_dropped;
  }
}

void SequenceTrace::moved(const std::string& to) {
  moved_ = true;
  if (!to.empty()) stay_.set("fulgur.moved_to", to);
}

void SequenceTrace::end(wire::FinishReason reason, const Status& why, std::uint32_t generated,
                        Nanoseconds now) {
  if (decode_) decode_->set("fulgur.generated_tokens", tokens_);
  for (Open* span : {&queue_, &step_, &prefill_, &decode_}) close(*span, now);
  stay_.set("fulgur.finish_reason", std::string(moved_ ? "moved" : name_of(reason)));
  stay_.set("fulgur.generated_tokens", generated);
  if (reason == wire::FinishReason::error && !moved_) stay_.fail(why.message());
  tracer_.close(stay_, now);
}

void BatchTrace::begin_layer(telemetry::Tracer& tracer, std::uint32_t index, bool lightning,
                             Nanoseconds started, Nanoseconds attention_ended) {
  if (details_left == 0) return;
  --details_left;
  layer = tracer.open("shard.layer", SpanKind::internal, step, started);
  layer.set("fulgur.layer", index);
  layer.set("fulgur.attention", std::string(lightning ? "lightning" : "softmax"));
  attended = attention_ended;
}

void BatchTrace::end_layer(telemetry::Tracer& tracer, const Status& failure, Nanoseconds combining,
                           Nanoseconds now) {
  layer.set("fulgur.attention_us", (attended - layer.start) / kMicrosecond);
  layer.set("fulgur.experts_us", (combining - attended) / kMicrosecond);
  layer.set("fulgur.combine_us", (now - combining) / kMicrosecond);
  if (!failure.is_ok()) layer.fail(failure.message());
  tracer.close(layer, now);
  layer = {};
}

DispatchTrace DispatchTrace::begin(telemetry::Tracer* tracer, BatchTrace& batch,
                                   const Clock& clock) {
  if (tracer == nullptr || !batch.layer_open()) return {};
  batch.details_left -= std::min(batch.details_left, 1U);
  return {tracer->new_id(), clock.now()};
}

TraceContext DispatchTrace::context(const BatchTrace& batch) const {
  return id == 0 ? TraceContext{} : TraceContext{batch.step.high, batch.step.low, id};
}

void DispatchTrace::end(telemetry::Tracer& tracer, const BatchTrace& batch,
                        const std::string& worker, std::size_t routes, const wire::Combine* answer,
                        std::string_view why, Nanoseconds now) const {
  telemetry::Span span;
  span.parent = batch.layer.context();
  span.id = id;
  span.name = "shard.dispatch";
  span.kind = SpanKind::client;
  span.start = started;
  span.set("fulgur.worker", worker);
  span.set("fulgur.routes", routes);
  if (answer != nullptr) {
    const std::int64_t whole = (now - started) / kMicrosecond;
    const std::int64_t there = std::int64_t{answer->queue_us} + answer->compute_us;
    span.set("fulgur.queue_us", answer->queue_us);
    span.set("fulgur.compute_us", answer->compute_us);
    span.set("fulgur.network_us", std::max<std::int64_t>(whole - there, 0));
  } else {
    span.fail(std::string(why));
  }
  tracer.close(span, now);
}

}  // namespace fulgur::attention
