// The parts of a running expert worker and how they are wired. A service process, a test and the
// single-process mode all start one with start_worker().
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "common/actor/reactor.hpp"
#include "common/model/checkpoint.hpp"
#include "kernels/include/fulgur/kernels/backend.hpp"
#include "services/expert/expert_node_actor.hpp"

namespace fulgur::expert {

/// What a worker needs of a model.
struct WorkerModel {
  std::uint32_t layers = 0;
  std::uint32_t experts = 0;
  std::uint32_t hidden = 0;
  /// For `hold`, and of one expert where that is empty: to find out what runs take.
  std::function<Result<std::shared_ptr<const kernels::Expert>>(ReplicaId)> load;
};

struct WorkerOptions {
  wire::Register registration;  ///< kind, name, incarnation, endpoints, model identity
  std::string orchestrator;     ///< endpoint; empty: replicas are the ones in `hold`
  std::vector<ReplicaId> hold;  ///< loaded before serving
  ExpertLayerLimits limits;
  /// Where answers lie; null: in host memory. Device memory needs a DeviceTransport.
  std::shared_ptr<BufferPool> pool;
  /// Makes what loads replicas on demand; empty: a ReplicaLoader with `packer`.
  std::function<std::unique_ptr<ReplicaSource>(ReplicaSource::OnLoaded)> make_source;
  std::uint64_t load_bytes_per_second = 0;  ///< of loads that nobody waits for; 0: no bound
  /// How long a Leave waits for the orchestrator to move the replicas away first; 0: not at all.
  Nanoseconds drain_timeout = 0;
  telemetry::Tracer* tracer = nullptr;  ///< for the spans of sampled dispatches; null: none
  std::function<void()> on_left;
  std::function<void(const std::string& why)> on_fatal;
};

/// Everything the actors of one worker share. Outlives them; touched by the reactor thread only.
struct Worker {
  WorkerContext context;
  std::unique_ptr<WeightStore> store;
  std::unique_ptr<ReplicaSource> loader;
  NodeLoad load;
  actor::Handle node;
};

/// Loads `options.hold`, takes the memory of the largest runs and starts the actors; an error, in
/// one line, when that does not fit. `packer` packs replicas that an orchestrator asks for on the
/// loader's own thread; null when replicas are fixed. Reactor, checkpoint, backend and clock
/// outlive the worker, and the worker outlives the reactor's actors.
Result<std::unique_ptr<Worker>> start_worker(actor::Reactor& reactor,
                                             std::shared_ptr<const model::Checkpoint> checkpoint,
                                             kernels::Backend& backend,
                                             std::unique_ptr<kernels::Backend> packer,
                                             WorkerOptions options);

/// The same of weights that are in no checkpoint; options.make_source makes what loads more of
/// them.
Result<std::unique_ptr<Worker>> start_worker(actor::Reactor& reactor, const WorkerModel& model,
                                             kernels::Backend& backend, WorkerOptions options);

}  // namespace fulgur::expert
