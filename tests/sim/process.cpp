#include "tests/sim/process.hpp"

#include <algorithm>

#include "common/actor/supervisor.hpp"
#include "services/attention/messages.hpp"
#include "services/expert/messages.hpp"

namespace fulgur::sim {
namespace {

constexpr Nanoseconds kPass = kMicrosecond;  ///< what a pass costs that computes nothing

/// One that must live: when it fails, its process ends.
actor::SupervisorOptions vital(std::function<void(const std::string&, const std::string&)> on_end) {
  actor::SupervisorOptions options;
  options.restarts_max = 0;
  options.on_escalate = std::move(on_end);
  return options;
}

/// Loads replicas on virtual time: packed once for all simulations, handed over after a delay.
class SimReplicaSource final : public expert::ReplicaSource {
 public:
  SimReplicaSource(World& world, const SimModel& model, const LoadingConditions& conditions,
                   OnLoaded on_loaded, std::function<void()> wake)
      : world_(world),
        model_(model),
        conditions_(conditions),
        on_loaded_(std::move(on_loaded)),
        wake_(std::move(wake)) {}

  void load(std::vector<expert::ReplicaId> ids, std::size_t) override {
    std::reverse(ids.begin(), ids.end());
    waiting_ = std::move(ids);
    if (!std::exchange(loading_, true)) next();
  }

 private:
  void next() {
    if (waiting_.empty()) {
      loading_ = false;
      return;
    }
    const expert::ReplicaId id = waiting_.back();
    waiting_.pop_back();
    world_.after(world_.dice().around(conditions_.delay_mean) + 1,
                 [this, id, alive = std::weak_ptr(alive_)] {
                   if (!alive.expired()) finish(id);
                 });
  }

  void finish(expert::ReplicaId id) {
    if (world_.dice().chance(conditions_.failure)) {
      on_loaded_(id, error(Code::data_loss, "the disk does not answer"));
    } else {
      on_loaded_(id, model_.expert(id.layer, id.expert));
    }
    wake_();
    next();
  }

  World& world_;
  const SimModel& model_;
  const LoadingConditions& conditions_;
  OnLoaded on_loaded_;
  std::function<void()> wake_;
  std::vector<expert::ReplicaId> waiting_;  ///< in reverse
  bool loading_ = false;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

}  // namespace

Process::Process(World& world, Network& network, ProcessOptions options)
    : world_(world),
      options_(std::move(options)),
      clock_(world),
      backend_(SimModel::backend(), clock_, options_.cost),
      transport_(network.make(options_.identity, options_.endpoint, clock_, [this] { wake(); })),
      reactor_(std::make_unique<actor::Reactor>(*transport_, clock_)) {}

Process::~Process() = default;

void Process::exit(int code, std::string why) {
  if (std::exchange(exiting_, true)) return;
  // At the end of what it is doing: its last messages leave.
  world_.at(clock_.now() + kPass, [this, alive = std::weak_ptr(alive_), end = Exit{code, why}] {
    if (alive.expired()) return;
    const auto on_exit = options_.on_exit;  // this process ends inside it
    on_exit(end);
  });
}

wire::Register Process::registration(const SimModel& model) const {
  wire::Register info;
  info.kind = options_.identity.kind;
  info.name = options_.identity.name;
  info.incarnation = options_.identity.incarnation;
  info.pid = 1;
  info.endpoint = options_.endpoint;
  info.admin_endpoint = "127.0.0.1:1";
  info.model_fingerprint = model.checkpoint().fingerprint();
  info.numerics = "cpu-bf16";
  return info;
}

void Process::pause(Nanoseconds until) { stopped_until_ = std::max(stopped_until_, until); }

void Process::resume() {
  stopped_until_ = 0;
  run_at(std::max(world_.now(), free_at()));
}

void Process::crash(const actor::Handle& actor) {
  caf::anon_send_exit(actor, caf::exit_reason::unhandled_exception);
  wake();
}

void Process::wake() {
  if (reactor_ == nullptr || in_pass_) return;
  run_at(std::max(world_.now(), free_at()));
}

void Process::run_at(Nanoseconds when) {
  if (when >= runs_at_) return;
  runs_at_ = when;
  world_.at(when, [this, when, alive = std::weak_ptr(alive_)] {
    if (alive.expired() || runs_at_ != when) return;
    runs_at_ = kNever;
    run();
  });
}

void Process::run() {
  if (world_.now() < free_at()) return run_at(free_at());
  auto& scheduler = reactor_->scheduler();
  if (scheduler.queued() > 1) scheduler.prioritize(world_.dice().below(scheduler.queued()));
  clock_.begin_pass();
  in_pass_ = true;
  const bool busy = reactor_->run_once();
  in_pass_ = false;
  free_at_ = std::max(free_at_, world_.now() + clock_.spent() + kPass);
  clock_.begin_pass();
  if (busy) return run_at(free_at());
  const Nanoseconds due = scheduler.clock().next_due(kNever);
  if (due != kNever) run_at(std::max(due, free_at()));
}

ShardProcess::ShardProcess(World& world, Network& network, ProcessOptions options,
                           const SimModel& model, attention::SchedulerOptions scheduler,
                           attention::DispatchOptions dispatch)
    : Process(world, network, std::move(options)) {
  attention::ShardOptions shard;
  shard.registration = registration(model);
  shard.orchestrator = options_.orchestrator;
  shard.scheduler = scheduler;
  shard.dispatch = dispatch;
  shard.on_left = [this] { exit(0, "left"); };
  shard.on_fatal = [this](const std::string& why) { exit(1, why); };
  shard_ = attention::start_shard(*reactor_, model.checkpoint(), backend_, std::move(shard)).value();
  reactor_->post([] {});
}

ShardProcess::~ShardProcess() { end_actors(); }

void ShardProcess::leave() {
  reactor_->post([this] { actor::tell(shard_->engine_actor, attention::Leave{}); });
}

WorkerProcess::WorkerProcess(World& world, Network& network, ProcessOptions options,
                             const SimModel& model, expert::ExpertLayerLimits limits,
                             std::uint64_t capacity_bytes, Nanoseconds drain_timeout,
                             const LoadingConditions& loading)
    : Process(world, network, std::move(options)) {
  expert::WorkerOptions worker;
  worker.registration = registration(model);
  worker.registration.capacity_bytes = capacity_bytes;
  worker.orchestrator = options_.orchestrator;
  worker.limits = limits;
  worker.drain_timeout = drain_timeout;
  worker.make_source = [&](expert::ReplicaSource::OnLoaded on_loaded) {
    return std::make_unique<SimReplicaSource>(world, model, loading, std::move(on_loaded),
                                              [this] { transport_->doorbell().ring(); });
  };
  worker.on_left = [this] { exit(0, "left"); };
  worker.on_fatal = [this](const std::string& why) { exit(1, why); };
  worker_ = expert::start_worker(*reactor_, model.shared_checkpoint(), backend_, nullptr,
                                 std::move(worker)).value();
  reactor_->run_until_idle(16);
}

WorkerProcess::~WorkerProcess() { end_actors(); }

void WorkerProcess::leave() {
  reactor_->post([this] { actor::tell(worker_->node, expert::Leave{}); });
}

OrchestratorProcess::OrchestratorProcess(World& world, Network& network, ProcessOptions options,
                                         orchestrator::CoordinatorOptions coordinator)
    : Process(world, network, std::move(options)) {
  orchestrator::OrchestratorDeps deps;
  deps.options = std::move(coordinator);
  deps.self = {name(), 1, options_.endpoint, "127.0.0.1:1"};
  deps.on_serving = [this](const Status& serving) { serving_ = serving; };
  deps.on_superseded = [this](const Status& why) { exit(1, why.message()); };
  actor::ChildSpec child;
  child.name = "orchestrator";
  child.start = [this, deps] { return orchestrator::start_orchestrator(*reactor_, deps); };
  child.on_started = [this](const actor::Handle& started) { actor_ = started; };
  reactor_->spawn<actor::Supervisor>(
      &clock_, vital([this](const std::string&, const std::string& why) {
        exit(1, "orchestrator failed: " + why);
      }),
      std::vector<actor::ChildSpec>{child});
  reactor_->run_until_idle(16);  // the supervisor starts its child
}

OrchestratorProcess::~OrchestratorProcess() {
  actor_ = nullptr;
  end_actors();
}

void OrchestratorProcess::drain(const std::string& name) {
  using orchestrator::DrainCommand;
  reactor_->post([this, name] {
    actor::tell(actor_, DrainCommand{DrainCommand::Kind::drain, {name}, [](const Status&) {}});
  });
}

void OrchestratorProcess::ask_view(std::function<void(std::string)> answer) {
  reactor_->post([this, answer = std::move(answer)] {
    actor::tell(actor_, orchestrator::MeshQuery{answer});
  });
}

RouterProcess::RouterProcess(World& world, Network& network, ProcessOptions options,
                             const SimModel& model, std::size_t requests_max)
    : Process(world, network, std::move(options)), metrics_(name()), admission_(requests_max) {
  mesh_.transport = transport_.get();
  mesh_.clock = &clock_;
  mesh_.metrics = &metrics_;
  mesh_.registration = registration(model);
  mesh_.orchestrator = options_.orchestrator;
  mesh_.on_drain = [this] { exit(0, "drained"); };
  sessions_.clock = &clock_;
  sessions_.metrics = &metrics_;
  actor::ChildSpec child;
  child.name = "mesh";
  child.start = [this] { return reactor_->spawn<router::MeshActor>(&mesh_); };
  child.on_started = [this](const actor::Handle& mesh) {
    sessions_.mesh = mesh;
    reactor_->subscribe<wire::Placement>(mesh);
    reactor_->subscribe<wire::Ack>(mesh);
    reactor_->subscribe<wire::Tokens>(mesh);
    reactor_->subscribe<wire::Done>(mesh);
    reactor_->subscribe<wire::Drain>(mesh);
    reactor_->subscribe_links(mesh);
  };
  reactor_->spawn<actor::Supervisor>(
      &clock_, vital([this](const std::string&, const std::string& why) {
        exit(1, "mesh failed: " + why);
      }),
      std::vector<actor::ChildSpec>{child});
  reactor_->run_until_idle(16);  // the supervisor starts its child
}

RouterProcess::~RouterProcess() {
  sessions_.mesh = nullptr;
  end_actors();
}

void RouterProcess::start_session(std::shared_ptr<router::SessionInput> input) {
  reactor_->post([this, input = std::move(input)] {
    reactor_->spawn<router::SessionActor>(&sessions_, input);
  });
}

}  // namespace fulgur::sim
