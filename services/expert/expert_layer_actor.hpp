// Actor shell of ExpertLayer: it drains its mailbox into the layer's queue, then runs everything
// pending as one grouped product and answers each shard on the link its dispatch came by.
#pragma once

#include <deque>

#include "common/actor/messages.hpp"
#include "common/telemetry/tracing.hpp"
#include "services/expert/expert_layer.hpp"
#include "services/expert/messages.hpp"

namespace fulgur::expert {

/// What the layer actors of one worker share. Outlives them.
struct WorkerContext {
  std::string name;
  std::uint32_t hidden = 0;
  transport::Transport* transport = nullptr;
  kernels::Backend* backend = nullptr;
  WeightStore* store = nullptr;
  const Clock* clock = nullptr;
  telemetry::Tracer* tracer = nullptr;  ///< null: no spans
  std::shared_ptr<BufferPool> pool;     ///< of answers
  std::shared_ptr<RunScratch> scratch = std::make_shared<RunScratch>();
  std::deque<std::shared_ptr<const kernels::Mark>> queued_runs = {};  ///< of all layers, in order
  std::shared_ptr<DeviceTime> device_time = std::make_shared<DeviceTime>();  ///< of all layers
  ExpertLayerLimits limits;
  std::uint64_t epoch = 0;  ///< last epoch prepared, for Nack
  bool draining = false;
  std::vector<actor::Handle> layers = {};  ///< [layers]; a restarted one takes its place
};

class ExpertLayerActor {
 public:
  ExpertLayerActor(actor::Self& self, WorkerContext* context, std::uint32_t layer);
  caf::behavior make_behavior();

 private:
  void on_dispatch(actor::Received<wire::Dispatch>& received);
  void run_pending();
  bool device_is_full();
  void run();
  void refuse(const RunResult& result);
  LayerLoad take_load();
  void record(const RunResult& result);
  void send(transport::LinkId link, const TraceContext& trace, wire::Body body);

  actor::Self& self_;
  WorkerContext& context_;
  ExpertLayer layer_;
  LayerLoad load_;
  bool run_queued_ = false;
};

}  // namespace fulgur::expert
