#include "services/attention/shard.hpp"

#include "common/actor/supervisor.hpp"
#include "common/wire/tensor_pool.hpp"
#include "services/attention/dispatch_actor.hpp"
#include "services/attention/engine_actor.hpp"
#include "services/attention/layer_actor.hpp"
#include "services/attention/rehearsal.hpp"

namespace fulgur::attention {
namespace {

void fill_sizes(ShardOptions& options, const ShardModel& model, const kernels::Backend& backend) {
  const model::ModelConfig& config = model.config;
  wire::SnapshotIdentity& identity = options.scheduler.identity;
  identity.model_fingerprint = model.fingerprint;
  identity.weight_version = model.weight_version;
  identity.numerics = options.registration.numerics;
  identity.layout = StateShape::of(config, backend).layout();
  options.scheduler.vocab = config.vocab;
  options.scheduler.positions_max = config.max_positions;
  options.dispatch.hidden = config.hidden;
  options.dispatch.experts_per_token = config.experts_per_token;
  options.dispatch.tracer = options.tracer;
}

/// Whether the state that the layers are about to allocate fits: all of it, said before any of it.
Status check_state_fits(const ShardOptions& options, const model::ModelConfig& config,
                        const kernels::Backend& backend) {
  std::uint64_t bytes = 0;
  for (const StateShape::Layer& layer : StateShape::of(config, backend).layers) {
    const bool lightning = layer.kind == model::AttentionKind::lightning;
    bytes += layer.piece_bytes * (lightning ? options.scheduler.slots : options.scheduler.pages);
  }
  if (bytes <= backend.memory_available()) return Status::ok();
  return error(
      Code::failed_precondition,
      "the state of {} sequences and {} KV tokens takes {:.2f} GiB, {:.2f} GiB are free beside "
      "the weights: lower --max-sequences or --kv-tokens",
      options.scheduler.slots, std::uint64_t{options.scheduler.pages} * kernels::kPageTokens,
      static_cast<double>(bytes) / (1 << 30),
      static_cast<double>(backend.memory_available()) / (1 << 30));
}

/// Everything that serving will ask of the backend: nothing is left to fail in the middle of it.
Status take_memory(Shard& shard) {
  const SchedulerOptions& limits = shard.options.scheduler;
  FULGUR_RETURN_IF_ERROR(check_state_fits(shard.options, shard.config, *shard.backend));
  try {
    for (std::uint32_t index = 0; index < shard.config.layers; ++index) {
      shard.attention.push_back(std::make_unique<AttentionLayer>(
          index, shard.config, shard.weights.layers[index], *shard.backend, shard.scratch,
          StateLimits{limits.slots, limits.pages}));
      shard.state_bytes += shard.attention.back()->state_bytes();
    }
    rehearse(shard);
    return Status::ok();
  } catch (const std::bad_alloc& full) {  // a GPU's message says how much it has
    return error(
        Code::failed_precondition,
        "{} sequences, {} KV tokens and {} micro-batches of {} tokens do not fit beside the "
        "weights: {}: lower --batch-tokens, --micro-batches, --max-sequences or --kv-tokens",
        limits.slots, std::uint64_t{limits.pages} * kernels::kPageTokens, limits.lanes,
        limits.batch_tokens, full.what());
  }
}

/// Sequence state belongs to these actors: one that fails cannot be restarted, the shard must be.
actor::SupervisorOptions end_shard_on_failure(Shard& shard) {
  actor::SupervisorOptions options;
  options.restarts_max = 0;
  options.on_escalate = [&shard](const std::string& child, const std::string& why) {
    shard.options.on_fatal(fmt::format("{} failed: {}", child, why));
  };
  return options;
}

// An actor is subscribed before it first runs: the link it then makes may come up at once.
void adopt_engine(Shard& shard, actor::Reactor& reactor, const actor::Handle& started) {
  shard.engine_actor = started;
  reactor.subscribe<wire::Submit>(started);
  reactor.subscribe<wire::Cancel>(started);
  reactor.subscribe<wire::Placement>(started);
  reactor.subscribe<wire::Ack>(started);
  reactor.subscribe<wire::Drain>(started);
  reactor.subscribe<wire::SnapshotOffer>(started);
  reactor.subscribe<wire::SnapshotChunk>(started);
  reactor.subscribe<wire::SnapshotReply>(started);
  reactor.subscribe<wire::SnapshotDrop>(started);
  reactor.subscribe_links(started);
}

void adopt_dispatch(Shard& shard, actor::Reactor& reactor, const actor::Handle& started) {
  shard.dispatch = started;
  reactor.subscribe<wire::Combine>(started);
  reactor.subscribe<wire::Nack>(started);
  reactor.subscribe_links(started);
}

std::vector<actor::ChildSpec> children_of(Shard& shard, actor::Reactor& reactor) {
  std::vector<actor::ChildSpec> children;
  children.push_back({"engine", [&] { return reactor.spawn<EngineActor>(&shard); },
                      [&](const actor::Handle& started) { adopt_engine(shard, reactor, started); }});
  children.push_back({"dispatch", [&] { return reactor.spawn<DispatchActor>(&shard); },
                      [&](const actor::Handle& started) { adopt_dispatch(shard, reactor, started); }});
  for (std::uint32_t index = 0; index < shard.config.layers; ++index) {
    children.push_back({fmt::format("layer-{}", index),
                        [&, index] { return reactor.spawn<LayerActor>(&shard, index); },
                        [&, index](const actor::Handle& started) { shard.layers[index] = started; }});
  }
  return children;
}

}  // namespace

Result<std::unique_ptr<Shard>> start_shard(actor::Reactor& reactor,
                                           const model::Checkpoint& checkpoint,
                                           kernels::Backend& backend, ShardOptions options) {
  ShardModel model;
  model.config = checkpoint.config();
  model.fingerprint = checkpoint.fingerprint();
  model.weight_version = checkpoint.weight_version();
  FULGUR_ASSIGN_OR_RETURN(model.weights, ModelWeights::load(checkpoint, backend));
  return start_shard(reactor, std::move(model), backend, std::move(options));
}

Result<std::unique_ptr<Shard>> start_shard(actor::Reactor& reactor, ShardModel model,
                                           kernels::Backend& backend, ShardOptions options) {
  auto shard = std::make_unique<Shard>();
  shard->options = std::move(options);
  fill_sizes(shard->options, model, backend);
  shard->config = std::move(model.config);
  shard->weights = std::move(model.weights);
  shard->pool = wire::pool_for_rows(shard->options.pool, shard->config.hidden);
  shard->backend = &backend;
  shard->transport = &reactor.transport();
  shard->clock = &reactor.clock();
  shard->engine = std::make_unique<Engine>(shard->options.scheduler, shard->options.parked,
                                           shard->options.cache,
                                           shard->config, shard->weights, backend,
                                           reactor.clock());
  shard->engine->trace_with(shard->options.tracer);
  shard->layers.resize(shard->config.layers);
  FULGUR_RETURN_IF_ERROR(take_memory(*shard));
  reactor.spawn<actor::Supervisor>(&reactor.clock(), end_shard_on_failure(*shard),
                                   children_of(*shard, reactor));
  reactor.run_until_idle();  // the supervisor starts its children
  return shard;
}

}  // namespace fulgur::attention
