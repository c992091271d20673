#include "bench/mesh/local_mesh.hpp"

#include <algorithm>

#include "common/base/log.hpp"
#include "common/wire/codec.hpp"
#include "services/attention/messages.hpp"

namespace fulgur::mesh {
namespace {

std::string shard_endpoint(std::uint32_t index) { return fmt::format("inproc://attention-{}", index); }
std::string worker_endpoint(std::uint32_t index) { return fmt::format("inproc://expert-{}", index); }

}  // namespace

/// One process of the mesh: members are destroyed bottom-up, actors before what they use.
struct LocalMesh::Node {
  std::string name;
  std::unique_ptr<transport::Transport> transport;
  std::unique_ptr<attention::Shard> shard;
  std::unique_ptr<expert::Worker> worker;
  std::unique_ptr<actor::Reactor> reactor;
};

/// Collects tokens and endings for its owner, which runs on the same thread.
class LocalMesh::Client {
 public:
  Client(actor::Self&, LocalMesh* mesh) : mesh_(*mesh) {}

  caf::behavior make_behavior() {
    return {
        [this](actor::Received<wire::Tokens>& received) {
          for (auto& event : received.body.events) take(event);
        },
        [this](const actor::Received<wire::Done>& received) {
          Generation& generation = mesh_.generations_.at(received.body.request);
          FULGUR_ASSERT(!generation.done, "a request ended twice");
          generation.done = true;
          generation.end = received.body;
          --mesh_.running_;
        },
    };
  }

 private:
  void take(wire::TokenEvent& event) {
    Generation& generation = mesh_.generations_.at(event.request);
    if (event.prompt) {
      generation.prompt.push_back(std::move(event));
      return;
    }
    FULGUR_ASSERT(event.index == mesh_.first_index_[event.request] + generation.tokens.size(),
                  "a token is missing or doubled");
    generation.tokens.push_back(event.token);
    generation.logprobs.push_back(event.logprob);
    generation.top.push_back(std::move(event.top));
  }

  LocalMesh& mesh_;
};

LocalMesh::~LocalMesh() {
  client_actor_ = nullptr;
  client_.reset();
  nodes_.clear();
  workers_.clear();
}

Result<std::unique_ptr<LocalMesh>> LocalMesh::start(std::shared_ptr<const model::Checkpoint> checkpoint,
                                                    kernels::Backend& backend, const Clock& clock,
                                                    LocalMeshOptions options) {
  std::unique_ptr<LocalMesh> mesh(new LocalMesh());
  mesh->checkpoint_ = std::move(checkpoint);
  mesh->backend_ = &backend;
  mesh->clock_ = &clock;
  mesh->options_ = std::move(options);
  mesh->options_.dispatch.dtype = mesh->options_.activations;
  mesh->hub_ = std::make_unique<transport::Hub>();
  const std::uint32_t workers = std::max(1U, mesh->options_.workers);
  const std::uint32_t copies = std::min(mesh->options_.replicas, workers);
  mesh->holds_ = [workers, copies](std::uint32_t worker, std::uint32_t layer, std::uint32_t expert) {
    return (worker + 2 * workers - (layer + expert) % workers) % workers < copies;
  };
  mesh->workers_.resize(mesh->options_.workers);
  for (std::uint32_t worker = 0; worker < mesh->options_.workers; ++worker) {
    FULGUR_RETURN_IF_ERROR(mesh->start_worker(worker));
  }
  for (std::uint32_t index = 0; index < mesh->options_.shards; ++index) {
    auto node = std::make_unique<Node>();
    node->name = fmt::format("attention-{}", index);
    FULGUR_RETURN_IF_ERROR(mesh->start_node(*node, shard_endpoint(index)));
    mesh->nodes_.push_back(std::move(node));
  }
  mesh->client_ = std::make_unique<Node>();
  Node& client = *mesh->client_;
  client.name = "client";
  if (mesh->options_.workers == 0) {
    // The loopback link is the client's too: shard, experts and client are one process.
    actor::Reactor& reactor = *mesh->nodes_[0]->reactor;
    mesh->client_actor_ = reactor.spawn<Client>(mesh.get());
    reactor.subscribe<wire::Tokens>(mesh->client_actor_);
    reactor.subscribe<wire::Done>(mesh->client_actor_);
    FULGUR_ASSIGN_OR_RETURN(
        const auto link, reactor.transport().connect(transport::LoopbackTransport::kEndpoint,
                                                     transport::Carrier::inproc));
    mesh->shard_links_.push_back(link);
  } else {
    FULGUR_ASSIGN_OR_RETURN(client.transport,
                            mesh->hub_->make({wire::ServiceKind::router, "client", 1}, ""));
    client.reactor = std::make_unique<actor::Reactor>(*client.transport, clock);
    mesh->client_actor_ = client.reactor->spawn<Client>(mesh.get());
    client.reactor->subscribe<wire::Tokens>(mesh->client_actor_);
    client.reactor->subscribe<wire::Done>(mesh->client_actor_);
    for (std::uint32_t index = 0; index < mesh->options_.shards; ++index) {
      FULGUR_ASSIGN_OR_RETURN(const auto link, client.transport->connect(shard_endpoint(index),
                                                                         transport::Carrier::inproc));
      mesh->shard_links_.push_back(link);
    }
  }
  for (int pass = 0; pass < 100; ++pass) mesh->step();
  mesh->publish_placement(1);
  for (int pass = 0; pass < 100; ++pass) mesh->step();
  for (std::uint32_t index = 0; index < mesh->options_.shards; ++index) {
    attention::Shard& shard = mesh->shard(index);
    for (int pass = 0; pass < 1000 && !shard.experts_reachable; ++pass) mesh->step();
    if (!shard.experts_reachable) return error(Code::internal, "experts are not reachable");
  }
  return mesh;
}

/// Returns the pool of the process's GPU, null without one.
Result<std::shared_ptr<BufferPool>> LocalMesh::open_transport(Node& node, wire::ServiceKind kind,
                                                              const std::string& endpoint) {
  LocalGpu gpu;
  if (options_.gpu) gpu = options_.gpu(node.name);
  FULGUR_ASSIGN_OR_RETURN(
      node.transport, hub_->make({kind, node.name, next_incarnation_++, gpu.identity}, endpoint));
  if (gpu.wrap) node.transport = gpu.wrap(std::move(node.transport));
  return gpu.pool;
}

Status LocalMesh::start_node(Node& node, const std::string& endpoint) {
  std::shared_ptr<BufferPool> pool;
  if (options_.workers == 0) {
    node.transport = std::make_unique<transport::LoopbackTransport>(
        transport::Identity{wire::ServiceKind::attention, node.name, 1});
  } else {
    FULGUR_ASSIGN_OR_RETURN(pool, open_transport(node, wire::ServiceKind::attention, endpoint));
  }
  node.reactor = std::make_unique<actor::Reactor>(*node.transport, *clock_);
  attention::ShardOptions options;
  options.registration.kind = wire::ServiceKind::attention;
  options.registration.name = node.name;
  options.expert_carrier = transport::Carrier::inproc;
  options.scheduler = options_.scheduler;
  options.dispatch = options_.dispatch;
  options.parked = options_.parked;
  options.cache = options_.cache;
  options.evacuation = options_.evacuation;
  options.pool = std::move(pool);
  options.tracer = options_.tracer;
  options.on_left = [] {};
  options.on_fatal = [](const std::string& why) { throw AssertionError(why); };
  FULGUR_ASSIGN_OR_RETURN(node.shard, attention::start_shard(*node.reactor, *checkpoint_, *backend_,
                                                             std::move(options)));
  if (options_.workers != 0) return Status::ok();
  expert::WorkerOptions worker;
  worker.registration.name = node.name;
  worker.hold = replicas_of(0);
  worker.tracer = options_.tracer;
  worker.on_left = [] {};
  worker.on_fatal = [](const std::string& why) { throw AssertionError(why); };
  FULGUR_ASSIGN_OR_RETURN(node.worker, expert::start_worker(*node.reactor, checkpoint_, *backend_,
                                                            nullptr, std::move(worker)));
  return Status::ok();
}

Status LocalMesh::start_worker(std::uint32_t worker) {
  auto node = std::make_unique<Node>();
  node->name = fmt::format("expert-{}", worker);
  expert::WorkerOptions options;
  FULGUR_ASSIGN_OR_RETURN(
      options.pool, open_transport(*node, wire::ServiceKind::expert, worker_endpoint(worker)));
  node->reactor = std::make_unique<actor::Reactor>(*node->transport, *clock_);
  options.registration.name = node->name;
  options.hold = replicas_of(worker);
  options.tracer = options_.tracer;
  options.on_left = [] {};
  options.on_fatal = [](const std::string& why) { throw AssertionError(why); };
  FULGUR_ASSIGN_OR_RETURN(node->worker, expert::start_worker(*node->reactor, checkpoint_, *backend_,
                                                             nullptr, std::move(options)));
  workers_.at(worker) = std::move(node);
  return Status::ok();
}

void LocalMesh::kill_worker(std::uint32_t worker) { workers_.at(worker).reset(); }

void LocalMesh::drain_shard(std::uint32_t shard) {
  actor::tell(nodes_.at(shard)->shard->engine_actor, attention::Leave{});
}

void LocalMesh::kill_shard(std::uint32_t shard) { nodes_.at(shard).reset(); }

void LocalMesh::set_placement(
    std::function<bool(std::uint32_t, std::uint32_t, std::uint32_t)> holds) {
  holds_ = std::move(holds);
}

std::vector<expert::ReplicaId> LocalMesh::replicas_of(std::uint32_t worker) const {
  std::vector<expert::ReplicaId> ids;
  const auto& config = checkpoint_->config();
  for (std::uint32_t layer = 0; layer < config.layers; ++layer) {
    for (std::uint32_t expert = 0; expert < config.experts; ++expert) {
      if (holds_(worker, layer, expert)) ids.push_back({layer, expert});
    }
  }
  return ids;
}

wire::Placement LocalMesh::placement(std::uint64_t epoch) const {
  const auto& config = checkpoint_->config();
  wire::Placement placement;
  placement.epoch = epoch;
  placement.orchestrator_generation = 1;
  placement.layers = config.layers;
  placement.experts = config.experts;
  const std::uint32_t workers = std::max(1U, options_.workers);
  for (std::uint32_t worker = 0; worker < workers; ++worker) {
    if (options_.workers != 0 && !workers_[worker]) continue;
    wire::WorkerEntry entry;
    entry.name = fmt::format("expert-{}", worker);
    entry.incarnation = 1;
    entry.endpoint = options_.workers == 0 ? transport::LoopbackTransport::kEndpoint
                                           : worker_endpoint(worker);
    entry.replicas.resize(expert::ReplicaSet::words(config.layers, config.experts));
    for (const auto id : replicas_of(worker)) {
      const std::size_t at = std::size_t{id.layer} * config.experts + id.expert;
      entry.replicas[at / 64] |= std::uint64_t{1} << (at % 64);
    }
    placement.workers.push_back(std::move(entry));
  }
  for (std::uint32_t index = 0; options_.workers != 0 && index < nodes_.size(); ++index) {
    if (nodes_[index] == nullptr) continue;
    placement.shards.push_back({nodes_[index]->name, 1, shard_endpoint(index), true});
  }
  return placement;
}

void LocalMesh::publish_placement(std::uint64_t epoch) {
  for (std::uint32_t index = 0; index < options_.shards; ++index) {
    if (nodes_[index] == nullptr) continue;
    actor::tell(nodes_[index]->shard->engine_actor,
                actor::Received<wire::Placement>{0, "orchestrator", 0, {}, placement(epoch)});
  }
}

attention::Shard& LocalMesh::shard(std::uint32_t index) { return *nodes_.at(index)->shard; }

std::uint64_t LocalMesh::submit(wire::Submit submit, std::uint32_t shard,
                                std::int64_t deadline_ns) {
  const std::uint64_t request = next_request_++;
  submit.request = request;
  generations_[request];
  shard_of_[request] = shard;
  ++running_;
  wire::Message message;
  message.sender = "client";
  message.deadline_ns = deadline_ns;
  if (options_.tracer != nullptr) message.trace = {0, request, request};
  message.body = std::move(submit);
  auto& transport = options_.workers == 0 ? nodes_[0]->reactor->transport() : *client_->transport;
  const Status sent = transport.send(shard_links_.at(shard), wire::encode(message));
  FULGUR_ASSERT(sent.is_ok(), sent.to_string());
  return request;
}

void LocalMesh::cancel(std::uint64_t request) {
  wire::Message message;
  message.sender = "client";
  message.body = wire::Cancel{request};
  auto& transport = options_.workers == 0 ? nodes_[0]->reactor->transport() : *client_->transport;
  const Status sent =
      transport.send(shard_links_.at(shard_of_.at(request)), wire::encode(message));
  FULGUR_ASSERT(sent.is_ok(), sent.to_string());
}

bool LocalMesh::step() {
  bool busy = false;
  for (auto& node : nodes_) {
    if (node) busy |= node->reactor->run_once();
  }
  for (auto& node : workers_) {
    if (node) busy |= node->reactor->run_once();
  }
  if (client_ && client_->reactor) busy |= client_->reactor->run_once();
  if (options_.on_step) options_.on_step();
  return busy;
}

bool LocalMesh::run(std::size_t passes_max) {
  for (std::size_t pass = 0; pass < passes_max; ++pass) {
    if (running_ == 0) return true;
    step();
  }
  return false;
}

}  // namespace fulgur::mesh
