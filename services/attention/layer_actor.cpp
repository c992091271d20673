#include "services/attention/layer_actor.hpp"

#include <algorithm>

#include "common/telemetry/hot_path.hpp"

namespace fulgur::attention {

LayerActor::LayerActor(actor::Self&, Shard* shard, std::uint32_t index)
    : shard_(*shard), index_(index), layer_(*shard->attention[index]) {}

caf::behavior LayerActor::make_behavior() {
  return {
      [this](const Forward& message) { forward(message.batch); },
      [this](const ExpertsDone& message) { experts_done(message.batch); },
  };
}

void LayerActor::forward(const MicroBatchPtr& batch) {
  if (batch->work != Work::forward) {
    const bool copied = attempt(*batch, [&] {
      if (batch->work == Work::snapshot) layer_.snapshot(*batch);
      if (batch->work == Work::restore) layer_.restore(*batch);
    });
    return copied ? pass_on(batch) : give_up(batch);
  }
  const Nanoseconds started = telemetry::stamp(*shard_.clock, batch->trace.step);
  if (!attempt(*batch, [&] { layer_.attend(*batch); })) return give_up(batch);
  const Nanoseconds ended = telemetry::stamp(*shard_.clock, batch->trace.step);
  (is_lightning() ? shard_.busy.lightning : shard_.busy.softmax) += ended - started;
  shard_.bubble.computed_until = ended;
  if (batch->trace.step.sampled()) {
    batch->trace.begin_layer(*shard_.options.tracer, index_, is_lightning(), started, ended);
  }
  actor::tell(shard_.dispatch, RunExperts{batch, index_});
}

void LayerActor::experts_done(const MicroBatchPtr& batch) {
  const Nanoseconds started = telemetry::stamp(*shard_.clock, batch->trace.step);
  if (!batch->failure.is_ok()) {
    end_trace(*batch, started, started);
    return give_up(batch);
  }
  BubbleTime& bubble = shard_.bubble;
  // A traced batch is stamped by the clock itself: the next one's stamp may lie before its last.
  (is_lightning() ? bubble.lightning : bubble.softmax) +=
      std::max<Nanoseconds>(started - bubble.computed_until, 0);
  const bool combined =
      attempt(*batch, [&] { layer_.combine(*batch, shard_.options.dispatch.dtype); });
  bubble.computed_until = telemetry::stamp(*shard_.clock, batch->trace.step);
  shard_.busy.combine += bubble.computed_until - started;
  end_trace(*batch, started, bubble.computed_until);
  combined ? pass_on(batch) : give_up(batch);
}

bool LayerActor::is_lightning() const {
  return shard_.weights.layers[index_].kind == model::AttentionKind::lightning;
}

void LayerActor::end_trace(MicroBatch& batch, Nanoseconds combining, Nanoseconds now) {
  if (!batch.trace.layer_open()) return;
  batch.trace.end_layer(*shard_.options.tracer, batch.failure, combining, now);
}

/// The engine decides what becomes of a batch with a failure; no other layer sees it.
void LayerActor::give_up(const MicroBatchPtr& batch) {
  actor::tell(shard_.engine_actor, BatchDone{batch});
}

void LayerActor::pass_on(const MicroBatchPtr& batch) {
  if (index_ + 1 < shard_.layers.size()) {
    actor::tell(shard_.layers[index_ + 1], Forward{batch});
  } else {
    actor::tell(shard_.engine_actor, BatchDone{batch});
  }
}

}  // namespace fulgur::attention
