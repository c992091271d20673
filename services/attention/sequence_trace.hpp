// The spans a shard makes of a sampled sequence: its stay here, and within that the wait, the
// prompt's computation and the generation; of the first micro-batches also each layer and each
// dispatch to a worker. A sequence that is not sampled has no SequenceTrace, and a micro-batch
// without one of its steps has an empty BatchTrace: then nothing here is called. Everything is
// bounded (TraceLimits). Reactor thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "common/telemetry/tracing.hpp"
#include "common/wire/messages.hpp"

namespace fulgur::attention {

struct MicroBatch;
struct Slice;

/// Of one sequence's stay at a shard.
struct TraceLimits {
  std::uint32_t chunks = 8;         ///< prefill chunks with a span
  std::uint32_t steps = 4;          ///< decode steps with a span
  std::uint32_t details = 4096;     ///< spans of layers and dispatches under those
  std::uint32_t token_events = 32;  ///< on the decode span
};

class SequenceTrace {
 public:
  /// `parent` is the router's span.
  SequenceTrace(telemetry::Tracer& tracer, const TraceContext& parent, const wire::Submit& submit,
                Nanoseconds now, TraceLimits limits = {});

  /// It is in a micro-batch that computes it. Returns the step's span, under which the layers'
  /// spans may be put; empty beyond the limits.
  TraceContext begin_step(const Slice& slice, const MicroBatch& batch, Nanoseconds now);
  /// The layers' spans are elsewhere: under a step of another sequence of the same micro-batch.
  void link_step(const TraceContext& other);
  void end_step(Nanoseconds now);
  /// It is in a micro-batch that copies its state.
  void copied(std::string_view what, Nanoseconds now);
  void token(Nanoseconds now);
  /// Its state is at another shard, where it goes on.
  void moved(const std::string& to);
  void end(wire::FinishReason reason, const Status& why, std::uint32_t generated, Nanoseconds now);

  std::uint32_t details_left() const { return details_left_; }
  void set_details_left(std::uint32_t left) { details_left_ = left; }

 private:
  using Open = std::optional<telemetry::Span>;
  void open(Open& span, const char* name, Nanoseconds now);
  void close(Open& span, Nanoseconds now);

  telemetry::Tracer& tracer_;
  const TraceLimits limits_;
  telemetry::Span stay_;
  Open queue_;
  Open prefill_;
  Open decode_;
  Open step_;
  std::uint32_t chunks_ = 0;
  std::uint32_t steps_ = 0;
  std::uint32_t tokens_ = 0;
  std::uint32_t details_left_;
  bool moved_ = false;
};

/// What a micro-batch carries from actor to actor while its layers are traced.
struct BatchTrace {
  TraceContext step;        ///< parent of the layers' spans; empty: they are not traced
  std::uint64_t owner = 0;  ///< the sequence whose step that is
  std::uint32_t details_left = 0;
  telemetry::Span layer;  ///< in progress
  Nanoseconds attended = 0;

  /// Whether the layer in progress has a span, so that its dispatches get theirs.
  bool layer_open() const { return layer.id != 0; }
  void begin_layer(telemetry::Tracer& tracer, std::uint32_t index, bool lightning,
                   Nanoseconds started, Nanoseconds attended);
  /// `combining`: since when the experts' outputs are added.
  void end_layer(telemetry::Tracer& tracer, const Status& failure, Nanoseconds combining,
                 Nanoseconds now);
};

/// A dispatch to one worker, as sent.
struct DispatchTrace {
  std::uint64_t id = 0;  ///< of its span; 0: none
  Nanoseconds started = 0;

  /// Nothing unless a layer of the batch is being traced.
  static DispatchTrace begin(telemetry::Tracer* tracer, BatchTrace& batch, const Clock& clock);
  TraceContext context(const BatchTrace& batch) const;
  /// `answer` is null when there was none that counts; then `why` says why.
  void end(telemetry::Tracer& tracer, const BatchTrace& batch, const std::string& worker,
           std::size_t routes, const wire::Combine* answer, std::string_view why,
           Nanoseconds now) const;
};

}  // namespace fulgur::attention
