// An expert worker's process.
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <csignal>
#include <new>

#include "bench/gpu/mesh/gpu_mesh.hpp"
#include "bench/slice/slice_model.hpp"
#include "services/expert/worker.hpp"

namespace fulgur::bench {

Status serve_mesh_worker(const GpuMeshOptions& options, const WorkerPlace& place) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() == 1) return {Code::unavailable, "the shard's process is gone"};
  void* page = mmap(nullptr, sizeof(WorkerBook), PROT_READ | PROT_WRITE, MAP_SHARED, place.book, 0);
  if (page == MAP_FAILED) return {Code::internal, "no book"};
  auto* book = static_cast<WorkerBook*>(page);  // made by the parent
  const std::string name = fmt::format("expert-{}", place.index);
  FULGUR_ASSIGN_OR_RETURN(MeshEnd end, open_mesh_end(options, {wire::ServiceKind::expert, name},
                                                     place.endpoint, place.device));
  const model::ModelConfig config = mesh_model(options);
  const expert::WorkerModel model{
      config.layers, config.experts, config.hidden,
      [&](expert::ReplicaId id) -> Result<std::shared_ptr<const kernels::Expert>> {
        return std::shared_ptr<const kernels::Expert>(
            slice_expert(config, id.layer, id.expert, *end.backend));
      }};
  Status failure;
  expert::WorkerOptions own;
  own.registration.name = name;
  own.hold = mesh_replicas(options, config, place.index);
  own.pool = end.pool;
  own.on_left = [] {};
  own.on_fatal = [&](const std::string& why) { failure = {Code::internal, why}; };
  std::unique_ptr<expert::Worker> worker;  // outlives the actors of the reactor
  const RealClock clock;
  actor::Reactor reactor(*end.transport, clock);
  FULGUR_ASSIGN_OR_RETURN(worker,
                          expert::start_worker(reactor, model, *end.backend, std::move(own)));
  const expert::DeviceTime& time = *worker->context.device_time;
  while (failure.is_ok()) {
    const bool busy = reactor.run_once();
    book->busy_ns.store(static_cast<std::uint64_t>(time.total()), std::memory_order_relaxed);
    book->runs.store(time.runs(), std::memory_order_relaxed);
    if (!busy) rest_until_due(reactor);
  }
  return failure;
}

}  // namespace fulgur::bench
