// The simulated processes: the real actors of each service over a simulated network, on a clock and
// a backend of their own. A process runs one pass of its reactor at a time and is busy for as long
// as what it computed in it takes; it dies by being destroyed, at any moment between two messages.
#pragma once

#include <functional>
#include <limits>
#include <memory>
#include <string>

#include "common/actor/reactor.hpp"
#include "services/attention/shard.hpp"
#include "services/expert/worker.hpp"
#include "services/orchestrator/orchestrator_actor.hpp"
#include "services/router/admission.hpp"
#include "services/router/mesh_actor.hpp"
#include "services/router/session_actor.hpp"
#include "tests/sim/network.hpp"
#include "tests/sim/sim_model.hpp"
#include "tests/sim/timed_backend.hpp"

namespace fulgur::sim {

/// How a process ended by itself.
struct Exit {
  int code = 0;
  std::string why;
};

struct ProcessOptions {
  transport::Identity identity;
  std::string endpoint;      ///< empty: it only connects
  std::string orchestrator;  ///< endpoint
  ComputeCost cost;
  std::function<void(const Exit&)> on_exit;
};

class Process {
 public:
  Process(World& world, Network& network, ProcessOptions options);
  virtual ~Process();
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  const std::string& name() const { return options_.identity.name; }
  std::uint64_t incarnation() const { return options_.identity.incarnation; }
  /// SIGSTOP, and SIGCONT then.
  void pause(Nanoseconds until);
  /// SIGCONT, for one that is stopped.
  void resume();
  void set_speed(double factor) { backend_.cost.factor = factor; }
  void set_death(Death death) { transport_->set_death(death); }
  /// An actor of this process ends with an error.
  void crash(const actor::Handle& actor);
  actor::Reactor& reactor() { return *reactor_; }
  const ProcessClock& clock() const { return clock_; }

 protected:
  /// Destroys the reactor with all actors; the first thing a derived destructor does.
  void end_actors() { reactor_.reset(); }
  void exit(int code, std::string why);
  wire::Register registration(const SimModel& model) const;

  World& world_;
  const ProcessOptions options_;
  ProcessClock clock_;
  TimedBackend backend_;
  std::unique_ptr<SimTransport> transport_;
  std::unique_ptr<actor::Reactor> reactor_;

 private:
  void wake();
  void run_at(Nanoseconds when);
  void run();

  static constexpr Nanoseconds kNever = std::numeric_limits<Nanoseconds>::max();
  Nanoseconds free_at() const { return std::max(free_at_, stopped_until_); }

  Nanoseconds free_at_ = 0;  ///< busy computing until then
  Nanoseconds stopped_until_ = 0;
  Nanoseconds runs_at_ = kNever;  ///< the pass that is scheduled
  bool in_pass_ = false;
  bool exiting_ = false;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);  ///< timers hold it weakly
};

class ShardProcess final : public Process {
 public:
  ShardProcess(World& world, Network& network, ProcessOptions options, const SimModel& model,
               attention::SchedulerOptions scheduler, attention::DispatchOptions dispatch);
  ~ShardProcess() override;
  attention::Shard& shard() { return *shard_; }
  void leave();

 private:
  std::unique_ptr<attention::Shard> shard_;
};

/// How a worker loads replicas: delays and bad luck.
struct LoadingConditions {
  Nanoseconds delay_mean = 20 * kMillisecond;  ///< of one replica
  double failure = 0;
};

class WorkerProcess final : public Process {
 public:
  WorkerProcess(World& world, Network& network, ProcessOptions options, const SimModel& model,
                expert::ExpertLayerLimits limits, std::uint64_t capacity_bytes,
                Nanoseconds drain_timeout, const LoadingConditions& loading);
  ~WorkerProcess() override;
  expert::Worker& worker() { return *worker_; }
  void leave();

 private:
  std::unique_ptr<expert::Worker> worker_;
};

class OrchestratorProcess final : public Process {
 public:
  OrchestratorProcess(World& world, Network& network, ProcessOptions options,
                      orchestrator::CoordinatorOptions coordinator);
  ~OrchestratorProcess() override;
  const Status& serving() const { return serving_; }
  /// POST of an operator: drain a member. The answer does not matter here.
  void drain(const std::string& name);
  /// What GET /v1/mesh answers, a moment later.
  void ask_view(std::function<void(std::string)> answer);

 private:
  actor::Handle actor_;
  Status serving_ = Status(Code::unavailable, "starting");
};

class RouterProcess final : public Process {
 public:
  RouterProcess(World& world, Network& network, ProcessOptions options, const SimModel& model,
                std::size_t requests_max);
  ~RouterProcess() override;

  bool ready() const { return mesh_.ready.load(); }
  router::Admission& admission() { return admission_; }
  double running() const { return metrics_.running.Value(); }
  double shards_up() const { return metrics_.shards_up.Value(); }
  /// What HttpApi does with a request it has admitted.
  void start_session(std::shared_ptr<router::SessionInput> input);

 private:
  router::RouterMetrics metrics_;
  router::Admission admission_;
  router::MeshDeps mesh_;
  router::SessionDeps sessions_;
};

}  // namespace fulgur::sim
