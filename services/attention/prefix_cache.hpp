// States of prompts that were computed here, in host memory, for prompts that begin the same: a hit
// restores KV and lightning state at one position and computes only what is behind it. A state after
// p tokens serves every length from its last block boundary to p, because the state itself is that of
// the boundary and the open block keeps its keys and values. Tokens are compared, hashes only find
// candidates, so a hit is never another prompt's state (invariant I4). Bounded in bytes and entries;
// the least recently used goes first. Plain class, one thread.
#pragma once

#include <cstdint>
#include <list>
#include <memory>
#include <span>
#include <unordered_map>

#include "services/attention/micro_batch.hpp"
#include "services/attention/state_shape.hpp"

namespace fulgur::attention {

struct PrefixCacheLimits {
  std::uint64_t bytes_max = 256ULL << 20;  ///< 0: no cache
  std::uint32_t entries_max = 4096;
};

/// Counters since start.
struct PrefixCacheStats {
  std::uint64_t hits_total = 0;
  std::uint64_t misses_total = 0;      ///< of prompts of a block and more
  std::uint64_t hit_tokens_total = 0;  ///< not computed thanks to hits
  std::uint64_t stored_total = 0;
  std::uint64_t evicted_total = 0;
};

class PrefixCache {
 public:
  PrefixCache(PrefixCacheLimits limits, StateShape shape);

  struct Hit {
    std::shared_ptr<SequenceSnapshot> snapshot;  ///< null: a miss
    std::uint64_t length = 0;  ///< tokens it is good for; at least the snapshot's last boundary
  };
  /// The longest state that `tokens` begin with, at most `length_max` tokens long.
  Hit find(std::span<const std::uint32_t> tokens, std::uint64_t length_max);

  /// Whether a state after `tokens` is worth taking: small enough, and nothing as long is here.
  bool wants(std::span<const std::uint32_t> tokens) const;
  void put(std::shared_ptr<SequenceSnapshot> snapshot);

  const PrefixCacheStats& stats() const { return stats_; }
  std::uint64_t bytes() const { return bytes_; }
  std::size_t entries() const { return recent_.size(); }

 private:
  struct Entry {
    std::uint64_t key = 0;  ///< hash of the tokens up to the last block boundary
    std::uint64_t bytes = 0;
    std::shared_ptr<SequenceSnapshot> snapshot;
  };
  using Entries = std::list<Entry>;  ///< most recently used first

  std::uint64_t bytes_of(std::uint64_t length) const;
  void erase(Entries::iterator entry);

  const PrefixCacheLimits limits_;
  const StateShape shape_;
  Entries recent_;
  std::unordered_multimap<std::uint64_t, Entries::iterator> by_key_;
  std::uint64_t bytes_ = 0;
  PrefixCacheStats stats_;
};

}  // namespace fulgur::attention
