// The receiving end of a migration: states of sequences that other shards hand over, while they
// arrive and until their routers ask for them. Takes nothing that is not this model's state, in this
// shard's form, whole and in order; anything else is refused or dropped and counted, and costs a
// prefill, never a wrong answer (invariant I4). Bounded in bytes, number and time; what a waiting
// sequence has taken still counts until it runs. Plain class, one thread, time from a Clock.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>

#include "common/base/clock.hpp"
#include "common/transport/transport.hpp"
#include "common/wire/limits.hpp"
#include "common/wire/messages.hpp"
#include "services/attention/micro_batch.hpp"
#include "services/attention/state_shape.hpp"

namespace fulgur::attention {

struct ParkedLimits {
  std::uint64_t bytes_max = 1ULL << 30;        ///< of all snapshots here
  std::uint32_t snapshots_max = 256;           ///< arriving, parked, or taken and not yet running
  std::uint32_t arriving_max = 8;              ///< at a time, from one shard
  std::uint64_t credit_bytes = 4 * wire::kMaxSnapshotChunk;
  Nanoseconds ttl = 30 * kSecond;              ///< parked, and nobody asks for it
  Nanoseconds silence_max = 10 * kSecond;      ///< arriving, and nothing arrives
};

/// Counters since start.
struct ParkedStats {
  std::uint64_t parked_total = 0;
  std::uint64_t restored_total = 0;   ///< taken by the sequence they belong to
  std::uint64_t missed_total = 0;     ///< asked for and not there, or of other tokens
  std::uint64_t refused_total = 0;    ///< offers: full, another model, another form
  std::uint64_t malformed_total = 0;  ///< transfers that broke the rules, stray chunks
  std::uint64_t lost_total = 0;       ///< unfinished when their shard was gone, silent or gave up
  std::uint64_t expired_total = 0;    ///< parked and never asked for
  std::uint64_t bytes_total = 0;      ///< received
};

class ParkedSnapshots {
 public:
  /// `identity` is this shard's own; hash and length unused. `clock` outlives the object.
  ParkedSnapshots(ParkedLimits limits, StateShape shape, wire::SnapshotIdentity identity,
                  const Clock& clock);

  wire::SnapshotReply on_offer(transport::LinkId link, const wire::SnapshotOffer& offer);
  /// No answer to a stray chunk: its transfer has been refused already.
  std::optional<wire::SnapshotReply> on_chunk(transport::LinkId link,
                                              const wire::SnapshotChunk& chunk);
  void on_drop(transport::LinkId link, const wire::SnapshotDrop& drop);
  /// What was arriving on the link is lost; what has arrived stays.
  void on_link_down(transport::LinkId link);
  /// Somebody who is no shard made an offer.
  void count_stranger() { ++stats_.malformed_total; }
  /// Frees what nobody asked for and what stopped arriving.
  void expire();

  /// The snapshot parked under `id` if it is of a beginning of `tokens`, else null. Once only.
  std::shared_ptr<SequenceSnapshot> take(std::uint64_t id, std::span<const std::uint32_t> tokens);

  const ParkedStats& stats() const { return stats_; }
  std::uint64_t bytes() const { return held_->bytes; }
  std::uint32_t count() const { return held_->count; }

 private:
  /// What is alive of all snapshots ever received; shared with them, so that it is exact.
  struct Held {
    std::uint64_t bytes = 0;
    std::uint32_t count = 0;
  };
  struct Transfer {
    std::shared_ptr<SequenceSnapshot> snapshot;
    std::vector<std::uint64_t> section_bytes;  ///< [1 + layers]
    std::vector<std::byte> tokens;             ///< section 0
    std::uint32_t section = 0;
    std::uint64_t offset = 0;
    std::uint64_t received = 0;
    Nanoseconds heard = 0;
  };
  struct Parked {
    std::shared_ptr<SequenceSnapshot> snapshot;
    transport::LinkId link = 0;
    std::uint64_t transfer = 0;
    Nanoseconds since = 0;
  };
  using Key = std::pair<transport::LinkId, std::uint64_t>;  ///< link, transfer

  Status admit(transport::LinkId link, const wire::SnapshotOffer& offer, std::uint64_t bytes) const;
  std::shared_ptr<SequenceSnapshot> reserve(std::uint64_t bytes);
  Status append(Transfer& transfer, const wire::SnapshotChunk& chunk);
  Status finish(Transfer& transfer);
  static void skip_filled_sections(Transfer& transfer);

  const ParkedLimits limits_;
  const StateShape shape_;
  const wire::SnapshotIdentity identity_;
  const Clock& clock_;
  std::shared_ptr<Held> held_ = std::make_shared<Held>();
  std::map<Key, Transfer> arriving_;
  std::map<std::uint64_t, Parked> parked_;
  std::uint64_t next_id_ = 1;
  ParkedStats stats_;
};

}  // namespace fulgur::attention
