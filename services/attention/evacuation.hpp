// A shard that leaves: brings its sequences to other shards, state and all, so that their tokens go
// on where they are. Per sequence: state to host memory at a step boundary, offer, chunks within the
// target's credit, and when the target has it all, the sequence ends here as `moved` and its router
// submits it there. The router keeps the text, so whatever breaks on the way costs a prefill and
// nothing else. Few are on their way at a time; the others go on generating meanwhile. Without any
// other shard the sequences finish here, within the grace. Plain class: advance() after every event.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "common/base/clock.hpp"
#include "common/transport/transport.hpp"
#include "common/wire/limits.hpp"
#include "common/wire/messages.hpp"
#include "services/attention/scheduler.hpp"

namespace fulgur::attention {

struct EvacuationOptions {
  std::uint32_t transfers_max = 2;                      ///< sequences on their way at a time
  std::uint64_t chunk_bytes = wire::kMaxSnapshotChunk;  ///< at most
  Nanoseconds connect_patience = 2 * kSecond;           ///< for links to other shards
  Nanoseconds silence_max = 10 * kSecond;               ///< of a target, before another is asked
  Nanoseconds grace = 30 * kSecond;                     ///< then whatever is left is handed back
};

/// Counters since start.
struct EvacuationStats {
  std::uint64_t moved_total = 0;      ///< parked at another shard
  std::uint64_t handed_total = 0;     ///< handed back without state: queued, nobody took it, grace over
  std::uint64_t refused_total = 0;    ///< offers and transfers a target refused
  std::uint64_t broken_total = 0;     ///< transfers whose target was lost or silent
  std::uint64_t ended_total = 0;      ///< sequences that were cancelled or expired on their way
  std::uint64_t bytes_total = 0;      ///< sent
  std::uint64_t pause_ns_total = 0;   ///< from leaving the engine until moved, summed over sequences
};

class Evacuation {
 public:
  struct Hooks {
    /// Starts connecting; 0 when that is impossible.
    std::function<transport::LinkId(const std::string& endpoint)> connect;
    std::function<Status(transport::LinkId, wire::Body)> send;
    /// Ends the sequence towards its router; moved_to may be empty. Ends no other sequence.
    std::function<void(SequenceId, const std::string& moved_to, std::uint64_t snapshot)> hand_over;
  };
  /// All outlive the object.
  Evacuation(EvacuationOptions options, Scheduler& scheduler, const Clock& clock, Hooks hooks);

  /// The other shards that accept sequences, as the newest placement has them.
  void set_targets(const std::vector<wire::ShardEntry>& shards);
  void on_link_up(transport::LinkId link);
  void on_link_down(transport::LinkId link);
  void on_reply(transport::LinkId link, const wire::SnapshotReply& reply);
  /// Does what can be done now. Call it after every event and every so often.
  void advance();
  /// The grace is over: what cannot be handed back now will be when the process has ended.
  bool out_of_time() const;

  const EvacuationStats& stats() const { return stats_; }

 private:
  struct Target {
    std::string endpoint;
    transport::LinkId link = 0;
    bool up = false;
    bool closed = false;      ///< it leaves too, hangs, or cannot be connected to
    Nanoseconds since = 0;    ///< connecting
    std::uint64_t given = 0;  ///< sequences offered
  };
  enum class Phase : std::uint8_t { leaving, offered, sending };
  struct Transfer {
    SequenceId sequence = 0;
    Phase phase = Phase::leaving;
    std::string target;
    transport::LinkId link = 0;
    std::shared_ptr<const SequenceSnapshot> snapshot;
    std::uint32_t section = 0;  ///< next byte to send
    std::uint64_t offset = 0;
    std::uint64_t sent = 0;
    std::uint64_t received = 0;  ///< acknowledged
    std::uint64_t credit = 0;
    Nanoseconds heard = 0;
    Nanoseconds started = 0;
    std::set<std::string> tried;
  };
  using Transfers = std::map<std::uint64_t, Transfer>;

  bool any_up() const;
  bool hopeful() const;
  void forget_ended();
  void stay();
  void hand_back_queue();
  void hand_back_all();
  void begin_transfers();
  /// False when the transfer is over.
  bool drive(Transfers::iterator transfer);
  bool offer(std::uint64_t id, Transfer& transfer);
  void send_chunks(std::uint64_t id, Transfer& transfer);
  wire::SnapshotChunk next_chunk(std::uint64_t id, const Transfer& transfer) const;
  void try_another(Transfer& transfer);
  void drop_at_target(std::uint64_t id, const Transfer& transfer);
  std::map<std::string, Target>::iterator choose(const std::set<std::string>& tried);
  /// moved_to by value: it may be the transfer's own, which ends here.
  void finish(Transfers::iterator transfer, std::string moved_to, std::uint64_t snapshot);

  const EvacuationOptions options_;
  Scheduler& scheduler_;
  const Clock& clock_;
  const Hooks hooks_;
  const Nanoseconds started_;
  std::map<std::string, Target> targets_;
  Transfers transfers_;  ///< by transfer id
  std::uint64_t next_transfer_ = 1;
  EvacuationStats stats_;
};

}  // namespace fulgur::attention
