// Whether this machine has room for a pool of another size: an estimate from above, made before a
// process is started, because a machine that swaps or kills serves nobody.
#pragma once

#include <cstdint>
#include <string>

#include "common/base/status.hpp"

namespace fulgur::cli {

/// Bytes that processes of a mesh take at most.
struct PoolCosts {
  std::uint64_t experts_bytes = 0;  ///< every expert of the model once, as workers hold it
  std::uint32_t replicas = 1;       ///< of every expert
  std::uint64_t shard_bytes = 0;    ///< weights, KV pages and states of one attention shard
};

struct PoolSize {
  std::string kind;  ///< "expert" or "attention"
  std::uint32_t present = 0;
  std::uint32_t wanted = 0;
  std::uint32_t most = 0;  ///< --max-experts, --max-attention
};

/// ok when the pool may grow to the wanted size with `available` bytes of memory free;
/// failed_precondition naming the flag or the numbers that forbid it.
Status check_room(const PoolSize& size, const PoolCosts& costs, std::uint64_t available);

/// Bytes that new processes may take: what the kernel calls available, less where a control group
/// of this process allows less.
std::uint64_t available_memory();

}  // namespace fulgur::cli
