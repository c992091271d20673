// The orchestrator's decisions without actors and sockets: turns what members say into membership,
// epochs and answers. Every effect goes through Outbox. Plain class, one thread, time from Clock.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "services/orchestrator/epochs.hpp"
#include "services/orchestrator/event_log.hpp"
#include "services/orchestrator/load_history.hpp"
#include "services/orchestrator/membership.hpp"
#include "services/orchestrator/pools.hpp"
#include "services/orchestrator/worker_view.hpp"

namespace fulgur::orchestrator {

class Outbox {
 public:
  virtual ~Outbox() = default;
  /// Best effort: a peer that is away hears the same again when it registers, and one that is
  /// there but behind on one of its heartbeats.
  virtual void send(transport::LinkId link, wire::Body body) = 0;
};

struct CoordinatorOptions {
  EpochOptions epochs;
  MembershipLimits membership;
  LoadHistoryOptions history;
  PoolsOptions pools;
  std::uint64_t fingerprint = 0;
  /// Larger at every start of the orchestrator. One that has not published anything yet takes a
  /// number above every other it hears of; one that has steps down when it hears of a larger one.
  std::uint64_t generation = 0;
  std::uint32_t expect_experts = 0;    ///< the first epoch waits for this many workers …
  std::uint32_t expect_attention = 0;  ///< … and shards …
  Nanoseconds grace = 10 * kSecond;    ///< … at most this long after the first worker
  Nanoseconds settle = kSecond;        ///< the same when nothing is expected
};

/// Totals since start.
struct CoordinatorCounters {
  std::uint64_t losses = 0;
  std::uint64_t departures = 0;  ///< drained and left
  std::uint64_t drains = 0;      ///< members told to drain
  std::uint64_t drains_refused = 0;
  std::uint64_t refused = 0;
  std::uint64_t registrations = 0;
  std::uint64_t reports = 0;
  std::uint64_t strangers = 0;  ///< heartbeats of members that are not registered
};

class Coordinator {
 public:
  Coordinator(CoordinatorOptions options, const Clock& clock, Outbox& outbox);
  Coordinator(const Coordinator&) = delete;
  Coordinator& operator=(const Coordinator&) = delete;

  void on_register(transport::LinkId link, const wire::Register& info);
  void on_heartbeat(transport::LinkId link, const wire::Heartbeat& beat);
  void on_link_down(transport::LinkId link);
  void on_report(const wire::Report& report);
  void on_prepared(const wire::Prepared& message);
  void on_switched(const wire::Switched& message);
  /// A member asks to be drained (SIGTERM): refused by an Ack that says why. A shard is not refused,
  /// for it has begun to leave when it says so.
  void on_drain(transport::LinkId link, const wire::Drain& message);

  /// Drains all of `names` or none. not_found for an unknown name, invalid_argument for one that
  /// cannot drain, failed_precondition when an expert or the clients would have nowhere to go,
  /// unavailable before the first epoch. Members that drain already are left at it.
  Status drain(const std::vector<std::string>& names);
  /// Takes a drain back; failed_precondition when the member was told to leave already.
  Status undrain(const std::string& name);

  /// Call a few times a second: losses, grace periods, phase timeouts.
  void tick();

  const Membership& members() const { return members_; }
  const Epochs& epochs() const { return epochs_; }
  const CoordinatorCounters& counters() const { return counters_; }
  const Pools& pools() const { return pools_; }
  const LoadHistory& load() const { return load_; }
  const EventLog& events() const { return events_; }
  const Clock& clock() const { return clock_; }
  WorkerView::Summary seen(const Member& worker) const {
    return worker_view_.summary(worker.info.name, worker.info.incarnation);
  }
  /// Whether the mesh serves under this orchestrator, or why not.
  Status serving() const;
  /// Generation of the orchestrator that members obey instead of this one; 0: none.
  std::uint64_t superseded_by() const { return superseded_by_; }

 private:
  bool obeyed(const std::string& by, std::uint64_t generation);
  PlanningHints hints() const;
  void learn(const Member& member, const wire::Heartbeat& beat);
  void answer_stranger(transport::LinkId link, const wire::Heartbeat& beat);
  void repeat_if_behind(const Member& member);
  void forget(const std::string& name);
  void note_slow(const Member& worker);
  void note_arrival(const wire::Register& info, Membership::Arrival arrival, bool was_to_go);
  static bool is_older_than_silent(const wire::Register& info, const Member& member);
  void note_suspect(const Member& member, MemberState before, const std::string& why);
  void note_serving();
  void note_wanted(std::string_view pool, std::uint32_t before, const ScalingSignal& signal);
  void tick_pools();
  void admit(const Member& member, Membership::Arrival arrival);
  void send_placement(const Member& member);
  Status check_drainable(const std::string& name) const;
  void begin_drain(const std::string& name);
  bool is_to_go(const Member& member) const;
  void left(const std::string& name);
  void begin_when_settled();
  void flush();

  CoordinatorOptions options_;
  const Clock& clock_;
  Outbox& outbox_;
  EventLog events_;
  Membership members_;
  Epochs epochs_;
  CoordinatorCounters counters_;
  LoadHistory load_;
  Pools pools_;
  WorkerView worker_view_;
  std::map<std::string, Nanoseconds> strangers_;  ///< who beats unregistered: when it is told so
  std::set<std::string> slow_;  ///< workers that were logged as slow
  std::uint64_t superseded_by_ = 0;
  Nanoseconds first_worker_at_ = -1;
  std::string said_of_serving_;  ///< in the last event about it
};

}  // namespace fulgur::orchestrator
