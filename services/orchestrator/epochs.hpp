// Placement epochs: plan -> prepare (workers load what they lack) -> commit (the new placement goes
// to shards and routers) -> switched (no shard routes by an older epoch) -> retire (workers free
// what is no longer named). A loss in any phase publishes the mesh without the lost one at once and
// plans again; a join waits for the running change to end. A worker that drains gets nothing in a
// plan; when it is out of the placement and no shard routes to it any more, it is told to leave.
// Soft state: after a restart it is rebuilt from what workers say they hold, under epoch numbers
// above every number heard of.
//
// Plain class, one thread. Effects are values in take_actions(), in the order they must be sent.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "common/base/clock.hpp"
#include "common/wire/messages.hpp"
#include "services/orchestrator/event_log.hpp"
#include "services/orchestrator/placement.hpp"

namespace fulgur::orchestrator {

struct PrepareTo {
  std::string worker;
  wire::Prepare message;
};
struct RetireTo {
  std::string worker;
  wire::Retire message;
};
/// To every shard and router.
struct Publish {
  wire::Placement message;
};
/// To a worker or shard that may go now.
struct DrainTo {
  std::string member;
  wire::Drain message;
};
using EpochAction = std::variant<PrepareTo, RetireTo, Publish, DrainTo>;

/// What is known of the load when a plan is made.
struct PlanningHints {
  std::vector<double> load;  ///< [layers, experts] decayed tokens; empty: plan evenly
  std::map<std::string, double> speeds;  ///< of workers, relative; 1 where missing
};

struct EpochOptions {
  ModelShape shape;
  std::uint32_t replicas = 2;
  std::uint64_t expert_bytes = 0;  ///< 0: capacities are not limited by bytes
  double spare = 0;                ///< replicas more for hot experts, as a part of all experts
  Nanoseconds rebalance_interval = 0;  ///< least time between two changes for balance; 0: never
  RebalancePolicy policy;          ///< its interval_min is rebalance_interval
  std::function<PlanningHints()> hints;  ///< asked at each plan when re-balancing is on
  Nanoseconds prepare_timeout = 600 * kSecond;
  Nanoseconds switch_timeout = 30 * kSecond;
  /// A worker that could not load is trusted with its whole capacity again after this, which
  /// doubles with every failure in a row.
  Nanoseconds retry_min = 2 * kSecond;
  Nanoseconds retry_max = 60 * kSecond;
};

class Epochs {
 public:
  enum class Phase : std::uint8_t { settling, idle, preparing, switching };

  /// Says in `events` what changes; all references outlive it.
  Epochs(EpochOptions options, std::uint64_t generation, const Clock& clock, EventLog& events)
      : options_(options), generation_(generation), clock_(clock), events_(events) {}

  /// Ends settling: whoever has joined by now is planned for.
  void begin();

  /// A worker, new or under another incarnation than before, with what it holds.
  void worker_joined(const wire::Register& info);
  void worker_lost(const std::string& name);
  /// The same incarnation registered again: repeats what it may have missed.
  void worker_again(const wire::Register& info);
  void shard_joined(const wire::Register& info);
  void shard_lost(const std::string& name);

  /// ok when all of `names` may leave together; failed_precondition naming an expert that nobody
  /// else has room for, or the last shard that accepts. Names of nobody are ignored.
  Status can_drain(const std::set<std::string>& names) const;
  /// A worker's replicas go elsewhere first, a shard stops accepting; then it hears Drain. A drain
  /// for which capacity vanishes meanwhile waits for it and the worker goes on serving.
  void drain(const std::string& name);
  /// failed_precondition once the member was told to leave.
  Status undrain(const std::string& name);
  /// Was told to leave, so that its end is no loss.
  bool dismissed(const std::string& name) const;

  void on_prepared(const wire::Prepared& message);
  void on_switched(const wire::Switched& message);
  /// Whether a member that reports `epoch` has missed what it was told last.
  bool is_behind(const std::string& name, wire::ServiceKind kind, std::uint64_t epoch) const;
  /// Says again what a member may have missed beside the placement: Prepare, Drain.
  void repeat_to(const std::string& name);

  /// Timeouts of the running phase; re-balances when it is time and worth it.
  void tick();

  /// Numbers of new epochs stay above any that a member reports; absurd ones are ignored.
  void observe_epoch(std::uint64_t epoch) {
    if (epoch < kEpochMax) epoch_seen_ = std::max(epoch_seen_, epoch);
  }

  std::vector<EpochAction> take_actions() { return std::exchange(actions_, {}); }

  /// The mesh as last published; nothing before the first commit.
  std::optional<wire::Placement> placement() const;
  /// ok when every expert has a replica on a live worker and a shard is there; else what lacks.
  Status serving() const;

  /// A change on its way to being served everywhere.
  struct Change {
    std::uint64_t epoch = 0;
    std::uint64_t moves = 0;  ///< replicas that workers were told to load
    Nanoseconds since = 0;
    std::set<std::string> waits_for;  ///< workers that load (preparing), shards (switching)
    std::size_t asked = 0;            ///< how many those were at first
  };
  /// Nothing while the phase is settling or idle.
  std::optional<Change> change() const;

  Phase phase() const { return phase_; }
  const ModelShape& shape() const { return options_.shape; }
  std::uint64_t epoch() const { return committed_epoch_; }
  std::uint64_t generation() const { return generation_; }
  /// Before the first epoch only: a number above every other orchestrator's.
  void set_generation(std::uint64_t generation) { generation_ = generation; }
  std::uint64_t rebalances_total() const { return rebalances_total_; }
  /// How even the last plan by load is; 1 is perfect, 0: no load was known.
  double balance() const { return balance_; }
  std::uint64_t moves_total() const { return moves_total_; }
  std::uint32_t replicas() const { return committed_replicas_; }
  /// Why not every expert has the wanted number of replicas; empty when all is well.
  const std::string& problem() const { return problem_; }
  /// Replicas `worker` serves in the committed epoch.
  std::uint64_t replicas_on(const std::string& worker) const;

 private:
  static constexpr std::uint64_t kEpochMax = 1ULL << 62;

  struct Worker {
    std::uint64_t incarnation = 0;
    std::string endpoint;
    std::uint64_t capacity = 0;  ///< replicas it is trusted with now
    std::uint64_t capacity_whole = 0;
    std::uint32_t failures = 0;  ///< to load, since it last prepared with its whole capacity
    Nanoseconds retry_at = 0;    ///< when it is trusted again; 0: it is
    bool left_out = false;       ///< of plans, until then
    std::string domain;
    ReplicaMap held;  ///< known to be loaded
    bool draining = false;
    bool dismissed = false;
  };
  using Assignment = std::map<std::string, ReplicaMap>;

  Worker make_worker(const wire::Register& info) const;
  std::uint64_t next_epoch();
  Status can_drain_shards(const std::set<std::string>& names) const;
  void plan(bool forced = true);
  void replan();
  PlacementInput planning_input(bool forced) const;
  void start_prepare(const PlacementPlan& plan, const std::vector<PlacementWorker>& workers);
  void send_prepares();
  void dismiss_drained();
  wire::Prepare prepare_message(const ReplicaMap& replicas) const;
  std::vector<std::uint64_t> urgent_of(const ReplicaMap& replicas) const;
  void plan_without(const std::string& worker);
  void publish_change();
  void commit();
  void finish_switch(bool retire);
  void finish_if_switched();
  void worker_failed(const std::string& name, const std::string& why);
  void retry_failed();
  bool told_to_drain(const std::string& name) const;

  EpochOptions options_;
  std::uint64_t generation_;
  const Clock& clock_;
  EventLog& events_;

  Phase phase_ = Phase::settling;
  bool joined_since_ = false;  ///< a join or a drain waits for the running change to end
  bool unretired_ = false;     ///< workers may hold more than the committed epoch names
  std::uint64_t epoch_seen_ = 0;
  std::map<std::string, Worker> workers_;
  std::map<std::string, wire::ShardEntry> shards_;

  bool has_committed_ = false;
  std::uint64_t committed_epoch_ = 0;
  std::uint32_t committed_replicas_ = 0;
  Assignment committed_;

  std::uint64_t target_epoch_ = 0;  ///< of the last Prepare; what Retire names
  std::uint32_t target_replicas_ = 0;
  Assignment target_;
  /// Drain and are to hold nothing: nothing to prepare or to free. What they hold serves the
  /// dispatches of the old epoch that are still on their way.
  std::set<std::string> left_out_;
  std::set<std::string> awaited_;  ///< workers (preparing) or shards (switching)
  Nanoseconds deadline_ = 0;
  std::uint64_t target_moves_ = 0;
  Nanoseconds phase_since_ = 0;
  std::size_t asked_ = 0;  ///< size of `awaited_` when the phase began

  std::uint64_t moves_total_ = 0;
  std::uint64_t rebalances_total_ = 0;
  double balance_ = 0;
  Nanoseconds changed_at_ = 0;  ///< last change of the placement that moved something
  Nanoseconds weighed_at_ = 0;  ///< last time a change for balance was looked for
  std::string problem_;
  std::vector<EpochAction> actions_;
};

std::string_view to_string(Epochs::Phase phase);

}  // namespace fulgur::orchestrator
