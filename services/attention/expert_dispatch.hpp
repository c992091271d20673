// Sends a micro-batch's tokens to the expert workers and gathers the un-reduced outputs. It knows
// the placement, which workers are reachable and what is outstanding with each; it re-routes on
// nack, link loss and silence, and parks routes of an expert nobody serves until someone does or
// the deadline passes. Of several replicas it takes the one that should answer first: by what it
// owes and how fast it has been; a slow one is asked for little now and then, to see it recover.
// Which replica answers never changes a result (invariant I1).
// Plain class: sending, packing and completion are callbacks.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "common/base/clock.hpp"
#include "common/transport/transport.hpp"
#include "common/wire/messages.hpp"
#include "services/attention/micro_batch.hpp"
#include "services/attention/worker_pace.hpp"

namespace fulgur::attention {

struct DispatchOptions {
  std::uint32_t experts_per_token = 2;
  std::uint32_t hidden = 0;
  Dtype dtype = Dtype::bf16;
  /// Weight bytes of an expert over bytes of a row: how many rows cost as much as reading one
  /// expert's weights. Balances workers by work instead of by rows.
  std::uint32_t expert_cost_rows = 16;
  std::uint32_t outstanding_max = 64;          ///< dispatches a worker may owe this shard (credits)
  Nanoseconds silence_max = 10 * kSecond;      ///< an unanswered dispatch is sent elsewhere
  /// The same, sooner, when another holder is at hand: after this and many times what is usual.
  Nanoseconds patience_min = 500 * kMillisecond;
  Nanoseconds wait_max = 60 * kSecond;         ///< routes without a live replica give up
  telemetry::Tracer* tracer = nullptr;         ///< for batches whose layers are traced
};

/// Counters for /metrics. Reactor thread.
struct DispatchStats {
  std::uint64_t dispatches_total = 0;
  std::uint64_t routes_total = 0;
  std::uint64_t expert_groups_total = 0;  ///< (expert, dispatch) pairs: expert weights read
  std::uint64_t retries_total = 0;
  std::uint64_t nacks_total = 0;
  std::uint64_t workers_lost_total = 0;
  std::uint64_t parked_total = 0;
  std::uint64_t unpacked_total = 0;  ///< dispatches that there was no memory to pack
  std::uint64_t overdue_total = 0;  ///< dispatches asked of another holder because they took too long
  std::uint64_t probes_total = 0;  ///< dispatches to a slower worker, to see whether it has recovered
  std::uint64_t queue_us_total = 0;    ///< in worker mailboxes
  std::uint64_t compute_us_total = 0;  ///< in workers
  std::uint64_t round_trip_us_total = 0;
};

class ExpertDispatch {
 public:
  struct Hooks {
    /// Sends to a worker; a failure makes the routes go elsewhere.
    std::function<Status(transport::LinkId, wire::Message)> send;
    /// Packs rows of batch.y into a wire block [rows, hidden]; a failure is tried again a little
    /// later.
    std::function<Result<wire::Frame>(const MicroBatch&, std::span<const std::uint32_t> rows)> pack;
    /// All outputs of `layer` are in, or batch.failure says why not.
    std::function<void(MicroBatchPtr, std::uint32_t layer)> done;
    /// Connects to a worker; 0 when that is impossible.
    std::function<transport::LinkId(const std::string& endpoint)> connect;
    std::function<void(transport::LinkId)> disconnect;
    /// A worker did not answer in time or nacked without reason.
    std::function<void(const wire::Report&)> report;
  };

  ExpertDispatch(std::string name, DispatchOptions options, const Clock& clock, Hooks hooks);

  /// Adopts a newer placement: one of a newer orchestrator, whose epochs start over, or of a later
  /// epoch of the same. Others are ignored (returns false).
  bool set_placement(const wire::Placement& placement);
  std::uint64_t epoch() const { return epoch_; }
  /// Whether this placement is the one adopted last.
  bool routes_by(const wire::Placement& placement) const {
    return placement.orchestrator_generation == generation_ && placement.epoch == epoch_;
  }

  void on_link_up(transport::LinkId link);
  void on_link_down(transport::LinkId link);
  void on_combine(transport::LinkId link, wire::Combine combine);
  void on_nack(transport::LinkId link, const wire::Nack& nack);

  /// Routes all of the batch's (row, slot) pairs of `layer`; hooks.done follows.
  void run(MicroBatchPtr batch, std::uint32_t layer);

  /// Times out silent workers and parked routes. Call a few times a second.
  void tick();

  /// Whether every expert of every layer has a reachable replica.
  bool complete() const;
  std::size_t outstanding() const { return parts_.size(); }
  /// What this shard has measured of every worker of the placement, by name.
  std::vector<wire::WorkerSeen> workers_seen() const;
  /// Nothing is owed or parked, and every worker's books say so.
  bool quiet() const;
  const DispatchStats& stats() const { return stats_; }

 private:
  struct Worker {
    std::string name;
    std::string endpoint;
    std::uint64_t incarnation = 0;
    std::vector<std::uint64_t> replicas;
    transport::LinkId link = 0;
    bool up = false;
    Nanoseconds link_due = 0;  ///< when a link that never was up should be; 0: it was
    std::uint64_t load = 0;  ///< cost of what is outstanding
    std::uint32_t outstanding = 0;
    Nanoseconds avoid_until = 0;  ///< after a nack or silence: only when nobody else holds the expert
    WorkerPace pace;
    double slowness = 1;  ///< time of a unit over the median worker's, as of the last batch
    Nanoseconds probe_at = 0;  ///< when a slower worker is tried next; 0: it is none
  };

  /// Routes of a batch that go to one worker together: [begin, end) of them, all of one expert.
  struct Group {
    std::size_t begin = 0;
    std::size_t end = 0;
    std::uint64_t rows() const { return end - begin; }
  };

  /// Routes of one layer of a micro-batch and since when they are tried.
  struct Routes {
    MicroBatchPtr batch;
    std::uint32_t layer = 0;
    std::vector<wire::Route> routes;  ///< row is the row of the micro-batch
    Nanoseconds since = 0;
  };

  /// A dispatch on its way. Dropped (and its id forgotten) when its routes go elsewhere.
  struct Part {
    Routes work;
    std::string worker;
    std::uint64_t cost = 0;
    Nanoseconds sent = 0;
    bool alone = false;  ///< the worker owed nothing else from when it was sent
    DispatchTrace trace;
  };

  bool holds(const Worker& worker, std::uint32_t layer, std::uint32_t expert) const;
  std::uint32_t holders(std::uint32_t layer, std::uint32_t expert) const;
  std::vector<Group> group(std::uint32_t layer, const std::vector<wire::Route>& routes) const;
  Worker* choose(std::uint32_t layer, std::uint32_t expert, std::uint64_t cost,
                 const std::map<std::string, std::uint64_t>& added);
  Worker* choose_probe(std::uint32_t layer, std::uint32_t expert, std::uint64_t cost,
                       const std::map<std::string, std::uint64_t>& added);
  void compare_workers();
  double pace_of(const Worker& worker) const;
  double median_pace() const;
  /// Work of a dispatch of that cost: what every dispatch takes counts as one more expert.
  double units(std::uint64_t cost) const {
    return static_cast<double>(cost + options_.expert_cost_rows);
  }
  void assign(const MicroBatchPtr& batch, std::uint32_t layer, std::vector<wire::Route> routes,
              Nanoseconds since);
  bool send_part(Worker& worker, Routes work, std::uint64_t cost);
  bool is_overdue(const Part& part, double median) const;
  bool others_hold(const Part& part) const;
  void ask_others(std::uint64_t id);
  void retry(std::uint64_t id, bool avoid_worker);
  void retry_all_of(const std::string& worker);
  void retry_parked();
  void forget(std::map<std::uint64_t, Part>::iterator part);
  void end_trace(const Part& part, const wire::Combine* answer, std::string_view why = "");
  void fail(const MicroBatchPtr& batch, std::uint32_t layer, Status why);
  Worker* by_link(transport::LinkId link);

  const std::string name_;
  const DispatchOptions options_;
  const Clock& clock_;
  Hooks hooks_;
  std::uint64_t epoch_ = 0;
  std::uint64_t generation_ = 0;
  std::uint32_t layers_ = 0;
  std::uint32_t experts_ = 0;
  std::map<std::string, Worker> workers_;  ///< by name: iteration order is part of the schedule
  std::map<std::uint64_t, Part> parts_;
  std::vector<Routes> parked_;  ///< nobody to send to now; tick() tries again
  std::uint64_t next_id_ = 1;
  DispatchStats stats_;
};

}  // namespace fulgur::attention
