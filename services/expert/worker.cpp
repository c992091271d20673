#include "services/expert/worker.hpp"

#include "common/actor/supervisor.hpp"
#include "common/wire/tensor_pool.hpp"

namespace fulgur::expert {
namespace {

void adopt_node(Worker& worker, actor::Reactor& reactor, const actor::Handle& started) {
  worker.node = started;
  reactor.subscribe<wire::Dispatch>(started);
  reactor.subscribe<wire::Prepare>(started);
  reactor.subscribe<wire::Retire>(started);
  if (!worker.loader) return;
  reactor.subscribe<wire::Ack>(started);
  reactor.subscribe<wire::Drain>(started);
  reactor.subscribe_links(started);
}

/// Memory for the largest runs, before anything else can take it.
Status take_memory(Worker& worker, const WorkerModel& model, kernels::Backend& backend) {
  if (backend.host_memory()) return Status::ok();
  const std::vector<ReplicaId> held = worker.store->held();
  std::shared_ptr<const kernels::Expert> weights;
  if (!held.empty()) weights = worker.store->find(held.front());
  if (!weights) {
    FULGUR_ASSIGN_OR_RETURN(weights, model.load({0, 0}));
  }
  try {
    rehearse_runs(backend, *weights, model.experts, model.hidden, worker.context.limits,
                  *worker.context.scratch);
    return Status::ok();
  } catch (const std::bad_alloc& full) {  // a GPU's message says how much it has
    return error(Code::failed_precondition,
                 "runs of {} rows do not fit beside one expert: {}: lower --batch-rows",
                 worker.context.limits.batch_rows_max, full.what());
  }
}

/// The front alone knows what it was asked to hold and owns the link to the orchestrator: when it
/// fails the process must end, or it would keep its links and answer nobody.
void spawn_node(Worker& worker, actor::Reactor& reactor, const NodeOptions& node) {
  actor::SupervisorOptions supervision;
  supervision.restarts_max = 0;
  supervision.on_escalate = [on_fatal = node.on_fatal](const std::string& child,
                                                       const std::string& why) {
    on_fatal(fmt::format("{} failed: {}", child, why));
  };
  actor::ChildSpec child;
  child.name = "node";
  child.start = [&worker, &reactor, node] {
    return reactor.spawn<ExpertNodeActor>(&worker.context, node, worker.loader.get(), &worker.load);
  };
  child.on_started = [&worker, &reactor](const actor::Handle& started) {
    adopt_node(worker, reactor, started);
  };
  reactor.spawn<actor::Supervisor>(&reactor.clock(), supervision,
                                   std::vector<actor::ChildSpec>{child});
  reactor.run_until_idle();  // the supervisor starts its child
}

}  // namespace

Result<std::unique_ptr<Worker>> start_worker(actor::Reactor& reactor,
                                             std::shared_ptr<const model::Checkpoint> checkpoint,
                                             kernels::Backend& backend,
                                             std::unique_ptr<kernels::Backend> packer,
                                             WorkerOptions options) {
  const model::ModelConfig& config = checkpoint->config();
  const WorkerModel model{config.layers, config.experts, config.hidden,
                          [&](ReplicaId id) { return load_expert(*checkpoint, id, backend); }};
  if (!options.make_source && packer) {
    // Called once, by start_worker().
    options.make_source = [checkpoint, held = std::make_shared<decltype(packer)>(std::move(packer)),
                           rate = options.load_bytes_per_second](ReplicaSource::OnLoaded loaded) {
      return std::make_unique<ReplicaLoader>(checkpoint, std::move(*held), rate, std::move(loaded));
    };
  }
  return start_worker(reactor, model, backend, std::move(options));
}

Result<std::unique_ptr<Worker>> start_worker(actor::Reactor& reactor, const WorkerModel& model,
                                             kernels::Backend& backend, WorkerOptions options) {
  auto worker = std::make_unique<Worker>();
  worker->store = std::make_unique<WeightStore>(model.layers, model.experts);
  for (const ReplicaId id : options.hold) {
    FULGUR_ASSIGN_OR_RETURN(auto weights, model.load(id));
    worker->store->insert(id, std::move(weights));
  }
  WorkerContext& context = worker->context;
  context.name = options.registration.name;
  context.hidden = model.hidden;
  context.transport = &reactor.transport();
  context.backend = &backend;
  context.store = worker->store.get();
  context.clock = &reactor.clock();
  context.tracer = options.tracer;
  context.pool = wire::pool_for_rows(std::move(options.pool), model.hidden);
  context.limits = options.limits;
  FULGUR_RETURN_IF_ERROR(take_memory(*worker, model, backend));
  // The node actor exists before the loader is asked for anything.
  ReplicaSource::OnLoaded on_loaded =
      [raw = worker.get()](ReplicaId id, Result<std::shared_ptr<const kernels::Expert>> loaded) {
        actor::tell(raw->node, loaded.is_ok() ? ReplicaLoaded{id, *loaded, Status::ok()}
                                              : ReplicaLoaded{id, nullptr, loaded.status()});
      };
  if (options.make_source) worker->loader = options.make_source(std::move(on_loaded));
  spawn_node(*worker, reactor, {options.orchestrator, options.registration, options.drain_timeout,
                                options.on_left, options.on_fatal});
  return worker;
}

}  // namespace fulgur::expert
