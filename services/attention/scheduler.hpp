// Continuous batching: which tokens of which sequences go into the next micro-batch. Decode first,
// then prefill in chunks that end at block boundaries, within a token budget; admission by free
// slots and pages; when pages run out the newest sequence is preempted to host memory, not failed.
// Plain class without actors, clocks of its own or arithmetic: every decision is testable. What it
// decides never changes a token (invariant I1), only when the token comes.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <optional>
#include <vector>

#include "common/base/status.hpp"
#include "services/attention/kv_pages.hpp"
#include "services/attention/micro_batch.hpp"
#include "services/attention/prefix_cache.hpp"
#include "services/attention/sequence.hpp"

namespace fulgur::attention {

struct SchedulerOptions {
  std::uint32_t slots = 64;          ///< sequences with state
  std::uint32_t pages = 1024;        ///< KV pages
  std::uint32_t batch_tokens = 512;  ///< budget of one micro-batch
  std::uint32_t lanes = 1;           ///< micro-batches in flight
  std::uint32_t lane_rows_min = 4;   ///< fewer decode rows than this are not spread over lanes
  std::uint32_t waiting_max = 1024;  ///< queued submissions; one more is refused busy
  std::uint64_t positions_max = 0;   ///< longest sequence the model allows
  std::uint32_t vocab = 0;
  wire::SnapshotIdentity identity;   ///< of this shard's snapshots; hash and length unused
};

/// A sequence that left the engine without a micro-batch in flight.
using SequencePtr = std::unique_ptr<Sequence>;

class Scheduler {
 public:
  /// `cache`, if any, outlives the scheduler.
  explicit Scheduler(SchedulerOptions options, PrefixCache* cache = nullptr);

  /// Queues a request. invalid_argument names what is wrong with it; resource_exhausted: queue full.
  /// One that brings a snapshot which fits goes on from it, before those that have none.
  Status submit(SequencePtr sequence);

  /// Fills `batch` with the next work for its lane. False when there is none now.
  bool plan(MicroBatch& batch);

  /// The micro-batch came back; its sequences may be planned again. Advances what they have computed.
  void complete(const MicroBatch& batch);

  /// Forgets what the state has seen: all tokens are computed again, where the sequence is.
  void start_over(Sequence& sequence);

  /// Appends a sampled token.
  void append(Sequence& sequence, std::uint32_t token);

  /// Has the sequence leave: at the next step boundary its state goes to host memory and it becomes
  /// `departed`. One that waits departs at once, with nothing.
  void depart(Sequence& sequence);
  /// The opposite: it goes on here.
  void stay(Sequence& sequence);

  /// Takes a sequence out and frees what it holds. It must not be in flight.
  SequencePtr remove(SequenceId id);

  Sequence* find(SequenceId id);
  Sequence* find(transport::LinkId link, std::uint64_t request);
  /// Ids of all sequences of one router.
  std::vector<SequenceId> of_link(transport::LinkId link) const;
  /// Ids of all sequences, in order of arrival.
  std::vector<SequenceId> ids() const;
  /// Ids of sequences whose deadline passed and that are not in flight.
  std::vector<SequenceId> expired(std::int64_t wall_now) const;

  std::uint32_t running() const { return slots_.used(); }
  std::uint32_t waiting() const {
    return static_cast<std::uint32_t>(waiting_.size() + swapped_.size() + departed_.size());
  }
  bool empty() const { return sequences_.empty(); }
  const SchedulerOptions& options() const { return options_; }
  const FreeList& slots() const { return slots_; }
  const FreeList& pages() const { return pages_; }
  std::uint64_t preemptions() const { return preemptions_; }
  /// Sequences that went on from a snapshot of another shard.
  std::uint64_t arrivals() const { return arrivals_; }

 private:
  static std::uint32_t pages_for(std::uint64_t tokens);

  bool plan_departure(MicroBatch& batch);
  bool plan_capture(MicroBatch& batch);
  bool plan_restore(MicroBatch& batch);
  void plan_snapshot(MicroBatch& batch, Sequence& sequence);
  void complete_snapshot(const MicroBatch& batch, Sequence& sequence);
  /// Whether the snapshot is this model's state after the first of the sequence's tokens.
  bool fits(const SequenceSnapshot& snapshot, const Sequence& sequence) const;
  bool plan_forward(MicroBatch& batch);
  bool prefill_wanted() const;
  void plan_decodes(MicroBatch& batch);
  void plan_prefills(MicroBatch& batch);
  void admit_waiting(MicroBatch& batch);
  bool admit(MicroBatch& batch, Sequence& sequence);
  bool admit_from_cache(Sequence& sequence);
  void prepare_capture(Sequence& sequence) const;
  bool prompt_is_under_way(const Sequence& sequence) const;
  bool plan_preemption(MicroBatch& batch);
  bool grow_pages(Sequence& sequence, std::uint64_t tokens);
  void add_slice(MicroBatch& batch, Sequence& sequence, std::uint32_t rows);
  std::uint32_t chunk_rows(const Sequence& sequence, std::uint32_t budget) const;
  std::uint32_t decode_share() const;
  void release(Sequence& sequence);
  std::uint32_t budget_left(const MicroBatch& batch) const;

  SchedulerOptions options_;
  PrefixCache* cache_;
  FreeList slots_;
  FreeList pages_;
  std::map<SequenceId, SequencePtr> sequences_;
  std::deque<SequenceId> waiting_;   ///< in order of arrival
  std::vector<SequenceId> running_;  ///< in order of arrival
  std::deque<SequenceId> swapped_;   ///< in order of arrival
  std::vector<SequenceId> departed_;
  std::uint32_t lanes_busy_ = 0;
  SequenceId last_decoded_ = 0;
  std::uint32_t prefill_starved_ = 0;  ///< micro-batches in a row that left prefill no row
  bool pages_short_ = false;  ///< a running sequence could not get its next page in this plan
  std::uint64_t preemptions_ = 0;
  std::uint64_t arrivals_ = 0;
};

/// Identity of a token prefix (invariant I4): hash_next over its tokens, from hash_prefix({}).
std::uint64_t hash_next(std::uint64_t hash, std::uint32_t token);
std::uint64_t hash_prefix(std::span<const std::uint32_t> tokens);

}  // namespace fulgur::attention
