// A whole mesh in one process and on one thread: shards, expert workers and a client, each with a
// reactor and an in-process transport of its own, stepped in turn. Everything between them is
// encoded messages, as between processes. Also the single-process engine: with no workers, shard and
// experts share one reactor over the loopback transport. Used by tests and by `fulgur bench engine`.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "common/actor/reactor.hpp"
#include "common/model/checkpoint.hpp"
#include "common/transport/inproc.hpp"
#include "common/transport/loopback.hpp"
#include "kernels/include/fulgur/kernels/backend.hpp"
#include "services/attention/shard.hpp"
#include "services/expert/worker.hpp"

namespace fulgur::mesh {

/// What a request produced.
struct Generation {
  std::vector<std::uint32_t> tokens;
  std::vector<float> logprobs;  ///< natural; zeros unless asked for
  std::vector<std::vector<wire::TokenLogprob>> top;
  std::vector<wire::TokenEvent> prompt;  ///< prompt log-probabilities, when asked for
  bool done = false;
  wire::Done end;
};

/// The GPU of one process of the mesh.
struct LocalGpu {
  std::string identity;  ///< of the GpuApi; empty: the process has none
  std::shared_ptr<BufferPool> pool;
  /// Puts a DeviceTransport on the process's own.
  std::function<std::unique_ptr<transport::Transport>(std::unique_ptr<transport::Transport>)> wrap;
};

struct LocalMeshOptions {
  std::uint32_t shards = 1;
  std::uint32_t workers = 0;   ///< 0: the experts live in the shard's process
  std::uint32_t replicas = 2;  ///< of each expert, at most `workers`
  Dtype activations = Dtype::bf16;
  attention::SchedulerOptions scheduler;
  attention::DispatchOptions dispatch;
  attention::ParkedLimits parked;
  attention::PrefixCacheLimits cache;
  attention::EvacuationOptions evacuation;
  /// All requests are traced, the one with id r in trace {0, r} as children of span r. Outlives the
  /// mesh.
  telemetry::Tracer* tracer = nullptr;
  /// The GPU of each shard and worker as it starts, by its name; empty: none has one. Not for a
  /// single process (workers = 0).
  std::function<LocalGpu(const std::string& name)> gpu;
  std::function<void()>
      on_step;  ///< after each pass, e.g. what the GPUs do meanwhile; empty: nothing
};

class LocalMesh {
 public:
  /// backend and clock outlive the mesh; the backend serves every shard and worker in turn.
  static Result<std::unique_ptr<LocalMesh>> start(std::shared_ptr<const model::Checkpoint> checkpoint,
                                                  kernels::Backend& backend, const Clock& clock,
                                                  LocalMeshOptions options);
  ~LocalMesh();

  /// Starts a request on a shard; submit.request is overwritten with the returned id. deadline_ns: wall
  /// clock of the mesh's clock; 0: none.
  std::uint64_t submit(wire::Submit submit, std::uint32_t shard = 0, std::int64_t deadline_ns = 0);
  void cancel(std::uint64_t request);
  /// The request's first token will have this index (it continues an earlier one).
  void expect_from(std::uint64_t request, std::uint32_t index) { first_index_[request] = index; }
  const Generation& generation(std::uint64_t request) const { return generations_.at(request); }
  bool finished(std::uint64_t request) const { return generations_.at(request).done; }

  /// One pass over all processes; false when none had anything to do.
  bool step();
  /// Steps until every request has ended. False when `passes_max` passes did not suffice.
  bool run(std::size_t passes_max = 50'000'000);

  /// The worker's process dies: its links go down and nothing it had comes back.
  void kill_worker(std::uint32_t worker);
  /// A worker process starts under the same name, holding what it held.
  Status start_worker(std::uint32_t worker);
  /// The shard gives its sequences to the others, as on SIGTERM. It goes on being stepped.
  void drain_shard(std::uint32_t shard);
  /// The shard's process dies. Requests that ran on it stay unfinished: a router would submit them
  /// again.
  void kill_shard(std::uint32_t shard);
  /// Sends shards a new placement, as the orchestrator would.
  void publish_placement(std::uint64_t epoch);
  /// Which workers hold an expert, by default striped with `replicas` copies.
  void set_placement(std::function<bool(std::uint32_t worker, std::uint32_t layer,
                                        std::uint32_t expert)> holds);

  attention::Shard& shard(std::uint32_t index);

 private:
  struct Node;
  class Client;

  LocalMesh() = default;
  Status start_node(Node& node, const std::string& endpoint);
  Result<std::shared_ptr<BufferPool>> open_transport(Node& node, wire::ServiceKind kind,
                                                     const std::string& endpoint);
  std::vector<expert::ReplicaId> replicas_of(std::uint32_t worker) const;
  wire::Placement placement(std::uint64_t epoch) const;

  std::shared_ptr<const model::Checkpoint> checkpoint_;
  kernels::Backend* backend_ = nullptr;
  const Clock* clock_ = nullptr;
  LocalMeshOptions options_;
  std::function<bool(std::uint32_t, std::uint32_t, std::uint32_t)> holds_;
  std::unique_ptr<transport::Hub> hub_;
  std::vector<std::unique_ptr<Node>> nodes_;    ///< shards
  std::vector<std::unique_ptr<Node>> workers_;  ///< null where killed
  std::unique_ptr<Node> client_;
  actor::Handle client_actor_;
  std::vector<transport::LinkId> shard_links_;  ///< [shards] of the client
  std::map<std::uint64_t, Generation> generations_;
  std::map<std::uint64_t, std::uint32_t> shard_of_;
  std::map<std::uint64_t, std::uint32_t> first_index_;
  std::uint64_t next_request_ = 1;
  std::uint64_t next_incarnation_ = 1;
  std::size_t running_ = 0;
};

}  // namespace fulgur::mesh
