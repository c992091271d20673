// Memory that a shard and a worker take beside weights and sequences before they serve. It follows
// services/attention/rehearsal.cpp, rehearse_runs() and the arrays of kernels/cuda/sm90_*.cpp call
// by call; docs/capacity.md says what is exact and what an upper bound.
#pragma once

#include <cstdint>

#include "common/model/model_config.hpp"

namespace fulgur::planner {

/// What the flags of a process are set to.
struct ShardLimits {
  std::uint64_t sequences = 64;      ///< --max-sequences
  std::uint64_t kv_tokens = 65'536;  ///< --kv-tokens
  std::uint64_t batch_tokens = 512;  ///< --batch-tokens
  std::uint32_t micro_batches = 1;   ///< --micro-batches
};
struct WorkerLimits {
  std::uint64_t batch_rows = 8192;  ///< --batch-rows
  bool fp8 = false;                 ///< --expert-weights
};

/// Bytes.
struct WorkingMemory {
  std::uint64_t activations = 0;  ///< arrays that are kept: rows, logits, tables
  std::uint64_t scratch = 0;      ///< of kernels, reused from call to call
  std::uint64_t graphs = 0;       ///< the driver's for CUDA graphs, upper bound
  std::uint64_t process = 0;      ///< what the driver takes for a process, and ends of chunks
  std::uint64_t pinned = 0;       ///< of the host, not of the device

  std::uint64_t device() const { return activations + scratch + graphs + process; }
};

/// Of a process on a GPU by the sm_90 kernels, with bf16 activations and a bf16 checkpoint.
/// `process` is left to the caller, but for the ends of chunks. No limit is 0.
WorkingMemory shard_working_memory(const model::ModelConfig& config, const ShardLimits& limits);
WorkingMemory worker_working_memory(const model::ModelConfig& config, const WorkerLimits& limits);

}  // namespace fulgur::planner
