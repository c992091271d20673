// An M1-shaped slice as a mesh on GPUs: an attention shard in one process, expert workers in
// others, started as the services start them, with DeviceTransports between. Or both roles in one
// process on one GPU, over the loopback link. Seeded weights, made on each device: experts are the
// same whoever holds them, so every configuration must give the same tokens.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "common/actor/reactor.hpp"
#include "common/base/buffer_pool.hpp"
#include "common/base/status.hpp"
#include "common/model/model_config.hpp"
#include "common/transport/gpu_api.hpp"
#include "kernels/include/fulgur/kernels/backend.hpp"
#include "services/expert/weight_store.hpp"

namespace fulgur::bench {

struct GpuMeshOptions {
  /// The shard's GPU, then each worker's, equal ones or not; one alone: both roles in one process.
  /// Negative: a rehearsal on host memory and the emulated backend.
  std::vector<int> devices = {0, 1};
  std::string carrier = "peer";  ///< peer | nccl | none (staged)
  std::uint32_t micro_batches = 1;
  std::vector<std::uint32_t> batches = {32, 128, 256};
  std::uint32_t prompt = 64;    ///< tokens of each sequence before it decodes
  std::uint32_t warm_up = 10;   ///< tokens of each sequence before the measurement …
  std::uint32_t steps = 100;    ///< … and in it
  std::uint32_t replicas = 1;   ///< of each expert
  bool kill = false;            ///< a worker that owes an answer, in the middle of the first batch
  std::uint32_t lightning = 3;  ///< layers
  std::uint32_t softmax = 1;
  std::uint32_t vocab = 8192;
  bool tiny = false;  ///< sizes for rehearsals
  std::string family = "auto";
  std::uint64_t window_bytes = std::uint64_t{128} << 20;
  int nccl_blocks = 16;
  std::uint32_t patience_s = 240;  ///< for one batch, start included
};

model::ModelConfig mesh_model(const GpuMeshOptions& options);

/// Which replicas a worker holds: striped, each expert at `replicas` of them.
bool mesh_holds(const GpuMeshOptions& options, std::uint32_t worker, std::uint32_t layer,
                std::uint32_t expert);

/// What a worker tells the process that started it, in memory that both map.
struct WorkerBook {
  std::atomic<std::uint64_t> busy_ns{0};  ///< time of its device in runs
  std::atomic<std::uint64_t> runs{0};
};

/// The device side of one process. Destroyed bottom-up: the backend waits for its work first.
struct MeshEnd {
  std::unique_ptr<transport::GpuApi> gpu;
  std::shared_ptr<BufferPool> pool;
  std::unique_ptr<transport::Transport> transport;
  std::unique_ptr<kernels::Backend> backend;
};

/// listen "": only connects.
Result<MeshEnd> open_mesh_end(const GpuMeshOptions& options, const transport::Identity& who,
                              const std::string& listen, int device);
/// The same without a transport.
Result<MeshEnd> open_mesh_device(const GpuMeshOptions& options, int device);

/// What Reactor::run() does between passes, for a millisecond at most.
void rest_until_due(actor::Reactor& reactor);

struct WorkerPlace {
  std::string endpoint;
  std::uint32_t index = 0;  ///< of the worker
  int device = 0;
  int book = -1;  ///< descriptor of its WorkerBook
};

/// A worker process: serves until its parent ends. Returns why it could not.
Status serve_mesh_worker(const GpuMeshOptions& options, const WorkerPlace& place);

/// The replicas of a worker and how it makes them.
std::vector<expert::ReplicaId> mesh_replicas(const GpuMeshOptions& options,
                                             const model::ModelConfig& config,
                                             std::uint32_t worker);

/// The shard's process: starts the workers, runs every batch, says a row for each.
Status run_gpu_mesh(const GpuMeshOptions& options,
                    const std::function<void(const nlohmann::json&)>& say);

}  // namespace fulgur::bench
