// The parts of a running shard and how they are wired: weights, layers, dispatch, engine, and the
// actors around them. A service process, a test and the single-process mode all start one with
// start_shard(); what differs is the reactor and transport they bring.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/actor/reactor.hpp"
#include "common/base/buffer_pool.hpp"
#include "common/model/checkpoint.hpp"
#include "common/wire/messages.hpp"
#include "kernels/include/fulgur/kernels/backend.hpp"
#include "services/attention/attention_layer.hpp"
#include "services/attention/engine.hpp"
#include "services/attention/evacuation.hpp"
#include "services/attention/expert_dispatch.hpp"
#include "services/attention/model_weights.hpp"

namespace fulgur::attention {

struct ShardOptions {
  wire::Register registration;   ///< kind, name, incarnation, endpoints, model identity
  std::string orchestrator;      ///< endpoint; empty: placement comes by other means
  transport::Carrier expert_carrier = transport::Carrier::automatic;
  SchedulerOptions scheduler;    ///< positions_max and vocab are filled from the model
  DispatchOptions dispatch;      ///< sizes are filled from the model
  ParkedLimits parked;           ///< states taken over from other shards
  PrefixCacheLimits cache;       ///< states of prompts, for prompts that begin the same
  EvacuationOptions evacuation;  ///< how this shard leaves
  /// Where the rows of dispatches lie; null: in host memory. Device memory needs a DeviceTransport.
  std::shared_ptr<BufferPool> pool;
  telemetry::Tracer* tracer = nullptr;  ///< for the spans of sampled sequences; null: none
  std::function<void()> on_left;  ///< drained after Leave
  std::function<void(const std::string& why)> on_fatal;
};

/// Time the shard's thread spent, by what for. Reactor thread.
struct BusyTime {
  Nanoseconds lightning = 0;
  Nanoseconds softmax = 0;
  Nanoseconds combine = 0;
  Nanoseconds head = 0;

  Nanoseconds total() const { return lightning + softmax + combine + head; }
};

/// Time between a shard's last arithmetic and the experts' answer that let it go on, by the kind of
/// the layer the answer was for: what the pipeline of micro-batches did not hide. Reactor thread.
struct BubbleTime {
  Nanoseconds lightning = 0;
  Nanoseconds softmax = 0;
  Nanoseconds computed_until = 0;  ///< end of the last arithmetic
};

/// Everything the actors of one shard share. Outlives them; touched by the reactor thread only.
struct Shard {
  ShardOptions options;
  model::ModelConfig config;
  ModelWeights weights;
  LayerScratch scratch;
  /// [layers] with all the state they will have; each is worked by its actor alone.
  std::vector<std::unique_ptr<AttentionLayer>> attention;
  std::shared_ptr<BufferPool> pool;
  kernels::Backend* backend = nullptr;
  transport::Transport* transport = nullptr;
  const Clock* clock = nullptr;
  std::unique_ptr<Engine> engine;
  BusyTime busy;
  BubbleTime bubble;
  Nanoseconds dispatching = 0;   ///< packing rows and sending them; not in `busy`
  DispatchStats dispatch_stats;  ///< copied by the dispatch actor after each layer
  std::vector<wire::WorkerSeen> workers_seen;  ///< copied by the dispatch actor at each tick
  EvacuationStats evacuation_stats;  ///< copied by the engine actor after each step
  bool experts_reachable = false;
  bool dispatch_quiet = true;    ///< nothing outstanding at the last tick
  std::uint64_t state_bytes = 0;

  std::vector<actor::Handle> layers;  ///< [layers]
  actor::Handle dispatch;
  actor::Handle engine_actor;
};

/// What a shard needs of a model.
struct ShardModel {
  model::ModelConfig config;
  ModelWeights weights;
  std::uint64_t fingerprint = 0;
  std::uint64_t weight_version = 0;
};

/// Packs the weights, takes the memory of states and of the largest steps, and starts the actors.
/// failed_precondition, in one line, when that does not fit: what was needed, what is free, which
/// flags to lower. The reactor's transport carries everything; reactor,
/// backend and clock outlive the shard, and the shard outlives the reactor's actors.
Result<std::unique_ptr<Shard>> start_shard(actor::Reactor& reactor,
                                           const model::Checkpoint& checkpoint,
                                           kernels::Backend& backend, ShardOptions options);

/// The same of weights that are in no checkpoint.
Result<std::unique_ptr<Shard>> start_shard(actor::Reactor& reactor, ShardModel model,
                                           kernels::Backend& backend, ShardOptions options);

}  // namespace fulgur::attention
