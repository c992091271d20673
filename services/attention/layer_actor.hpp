// Actor shell of AttentionLayer: takes a micro-batch, attends, hands it to the expert dispatch, adds
// the expert outputs when they are back and passes it to the next layer.
#pragma once

#include "services/attention/messages.hpp"
#include "services/attention/shard.hpp"

namespace fulgur::attention {

class LayerActor {
 public:
  LayerActor(actor::Self& self, Shard* shard, std::uint32_t index);
  caf::behavior make_behavior();

 private:
  void forward(const MicroBatchPtr& batch);
  void experts_done(const MicroBatchPtr& batch);
  void end_trace(MicroBatch& batch, Nanoseconds combining, Nanoseconds now);
  void pass_on(const MicroBatchPtr& batch);
  void give_up(const MicroBatchPtr& batch);
  bool is_lightning() const;

  Shard& shard_;
  const std::uint32_t index_;
  AttentionLayer& layer_;
};

}  // namespace fulgur::attention
