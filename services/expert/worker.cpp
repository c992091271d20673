#include "services/expert/worker.hpp"

namespace fulgur::expert {

Result<std::unique_ptr<Worker>> start_worker(actor::Reactor& reactor,
                                             std::shared_ptr<const model::Checkpoint> checkpoint,
                                             kernels::Backend& backend,
                                             std::unique_ptr<kernels::Backend> packer,
                                             WorkerOptions options) {
  auto worker = std::make_unique<Worker>();
  const model::ModelConfig& config = checkpoint->config();
  worker->store = std::make_unique<WeightStore>(config.layers, config.experts);
  for (const ReplicaId id : options.hold) {
    FULGUR_ASSIGN_OR_RETURN(auto weights, load_expert(*checkpoint, id, backend));
    worker->store->insert(id, std::move(weights));
  }
  WorkerContext& context = worker->context;
  context.name = options.registration.name;
  context.hidden = config.hidden;
  context.transport = &reactor.transport();
  context.backend = &backend;
  context.store = worker->store.get();
  context.clock = &reactor.clock();
  context.pool = std::make_shared<BufferPool>();
  context.limits = options.limits;
  // The node actor exists before the loader is asked for anything.
  ReplicaSource::OnLoaded on_loaded =
      [raw = worker.get()](ReplicaId id, Result<std::shared_ptr<const kernels::Expert>> loaded) {
        actor::tell(raw->node, loaded.is_ok()
                                   ? ReplicaLoaded{id, *loaded, ""}
                                   : ReplicaLoaded{id, nullptr, loaded.status().to_string()});
      };
  if (options.make_source) {
    worker->loader = options.make_source(std::move(on_loaded));
  } else if (packer) {
    worker->loader = std::make_unique<ReplicaLoader>(std::move(checkpoint), std::move(packer),
                                                     options.load_bytes_per_second,
                                                     std::move(on_loaded));
  }
  NodeOptions node{std::move(options.orchestrator), std::move(options.registration),
                   options.drain_timeout, std::move(options.on_left), std::move(options.on_fatal)};
  worker->node = reactor.spawn<ExpertNodeActor>(&context, std::move(node), worker->loader.get(),
                                                &worker->load);
  reactor.subscribe<wire::Dispatch>(worker->node);
  reactor.subscribe<wire::Prepare>(worker->node);
  reactor.subscribe<wire::Retire>(worker->node);
  if (!worker->loader) return worker;
  reactor.subscribe<wire::Ack>(worker->node);
  reactor.subscribe<wire::Drain>(worker->node);
  reactor.subscribe_links(worker->node);
  return worker;
}

}  // namespace fulgur::expert
