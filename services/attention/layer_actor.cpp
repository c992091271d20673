#include "services/attention/layer_actor.hpp"

#include "common/telemetry/hot_path.hpp"

namespace fulgur::attention {

LayerActor::LayerActor(actor::Self&, Shard* shard, std::uint32_t index)
    : shard_(*shard),
      index_(index),
      layer_(index, shard->config, shard->weights.layers[index], *shard->backend, shard->scratch,
             {shard->options.scheduler.slots, shard->options.scheduler.pages}) {
  shard_.state_bytes += layer_.state_bytes();
}

caf::behavior LayerActor::make_behavior() {
  return {
      [this](const Forward& message) { forward(message.batch); },
      [this](const ExpertsDone& message) { experts_done(message.batch); },
  };
}

void LayerActor::forward(const MicroBatchPtr& batch) {
  if (batch->work == Work::snapshot) layer_.snapshot(*batch);
  if (batch->work == Work::restore) layer_.restore(*batch);
  if (batch->work != Work::forward) return pass_on(batch);
  const Nanoseconds started = telemetry::stamp(*shard_.clock);
  layer_.attend(*batch);
  const Nanoseconds ended = telemetry::stamp(*shard_.clock);
  (is_lightning() ? shard_.busy.lightning : shard_.busy.softmax) += ended - started;
  shard_.bubble.computed_until = ended;
  if (batch->trace.step.sampled()) {
    batch->trace.begin_layer(*shard_.options.tracer, index_, is_lightning(), started, ended);
  }
  actor::tell(shard_.dispatch, RunExperts{batch, index_});
}

void LayerActor::experts_done(const MicroBatchPtr& batch) {
  const Nanoseconds started = telemetry::stamp(*shard_.clock);
  if (!batch->failure.is_ok()) {
    end_trace(*batch, started, started);
    actor::tell(shard_.engine_actor, BatchDone{batch});
    return;
  }
  BubbleTime& bubble = shard_.bubble;
  (is_lightning() ? bubble.lightning : bubble.softmax) += started - bubble.computed_until;
  layer_.combine(*batch, shard_.options.dispatch.dtype);
  bubble.computed_until = telemetry::stamp(*shard_.clock);
  shard_.busy.combine += bubble.computed_until - started;
  end_trace(*batch, started, bubble.computed_until);
  pass_on(batch);
}

bool LayerActor::is_lightning() const {
  return shard_.weights.layers[index_].kind == model::AttentionKind::lightning;
}

void LayerActor::end_trace(MicroBatch& batch, Nanoseconds combining, Nanoseconds now) {
  if (!batch.trace.layer_open()) return;
  batch.trace.end_layer(*shard_.options.tracer, batch.failure, combining, now);
}

void LayerActor::pass_on(const MicroBatchPtr& batch) {
  if (index_ + 1 < shard_.layers.size()) {
    actor::tell(shard_.layers[index_ + 1], Forward{batch});
  } else {
    actor::tell(shard_.engine_actor, BatchDone{batch});
  }
}

}  // namespace fulgur::attention
