#include "services/attention/layer_actor.hpp"

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
  const Nanoseconds started = shard_.clock->now();
  layer_.attend(*batch);
  const bool lightning =
      shard_.weights.layers[index_].kind == model::AttentionKind::lightning;
  (lightning ? shard_.busy.lightning : shard_.busy.softmax) += shard_.clock->now() - started;
  actor::tell(shard_.dispatch, RunExperts{batch, index_});
}

void LayerActor::experts_done(const MicroBatchPtr& batch) {
  if (!batch->failure.is_ok()) {
    actor::tell(shard_.engine_actor, BatchDone{batch});
    return;
  }
  const Nanoseconds started = shard_.clock->now();
  layer_.combine(*batch, shard_.options.dispatch.dtype);
  shard_.busy.combine += shard_.clock->now() - started;
  pass_on(batch);
}

void LayerActor::pass_on(const MicroBatchPtr& batch) {
  if (index_ + 1 < shard_.layers.size()) {
    actor::tell(shard_.layers[index_ + 1], Forward{batch});
  } else {
    actor::tell(shard_.engine_actor, BatchDone{batch});
  }
}

}  // namespace fulgur::attention
