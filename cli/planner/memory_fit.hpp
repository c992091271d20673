// What a split must hold and how many sequences fit beside it.
#pragma once

#include <cstdint>

#include "cli/planner/request.hpp"
#include "cli/planner/working_memory.hpp"
#include "common/base/status.hpp"

namespace fulgur::planner {

/// Bytes of one sequence at a shard.
struct SequenceBytes {
  std::uint64_t state = 0;       ///< lightning, fp32
  std::uint64_t open_block = 0;  ///< bf16 keys and values of a block of 64 tokens a lightning layer
  std::uint64_t kv = 0;          ///< softmax, bf16, at the request's context
  std::uint64_t sum() const { return state + open_block + kv; }
};

SequenceBytes sequence_bytes(const Request& request);
/// Weights of a shard: projections, embedding, LM head, norms (bf16), routers (fp32).
std::uint64_t attention_bytes(const model::ModelConfig& config);
/// One expert's three matrices.
std::uint64_t expert_bytes(const Request& request);
/// Replicas of all layers that the request wants held by `workers`: one of each expert and the
/// spare part, at most one of each a worker.
std::uint64_t replicas_wanted(const Request& request, std::uint32_t workers);
/// Bytes of a device that weights, sequences and working memory may take.
double usable_bytes(const Request& request);
/// Working memory of a shard that is set for so many sequences at the request's context, and of a
/// worker. Nothing where the profile's memory is a host's.
WorkingMemory shard_working(const Request& request, std::uint64_t sequences,
                            std::uint32_t micro_batches);
WorkingMemory worker_working(const Request& request);
/// Fewest expert devices (not colocated) that hold replicas_wanted(); 0: none can hold an expert.
std::uint32_t expert_devices_min(const Request& request);

struct MemoryFit {
  SequenceBytes sequence;
  double usable = 0;     ///< bytes of a device
  double attention = 0;  ///< weights of an attention device
  double experts = 0;    ///< weights of an expert device
  WorkingMemory shard;   ///< working memory at the most sequences
  WorkingMemory worker;
  double copies = 1;                ///< of every expert that the pool has room for
  std::uint64_t sequences_max = 0;  ///< of all shards
};

/// For shards with `micro_batches` in flight. failed_precondition in one line, with the numbers,
/// when the split does not fit or no sequence does.
Result<MemoryFit> fit_memory(const Request& request, const Split& split,
                             std::uint32_t micro_batches);

}  // namespace fulgur::planner
