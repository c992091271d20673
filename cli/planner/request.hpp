// What a plan is asked for, and the split of devices it weighs.
#pragma once

#include <cstdint>
#include <optional>

#include "cli/planner/model_shape.hpp"
#include "cli/planner/profile.hpp"

namespace fulgur::planner {

/// How devices are divided. Colocated: every device is a shard and a worker, so both numbers are
/// that of the devices.
struct Split {
  std::uint32_t attention = 0;
  std::uint32_t experts = 0;
  bool colocated = false;

  std::uint32_t devices() const { return colocated ? attention : attention + experts; }
};

inline constexpr std::uint32_t kMicroBatchesMax = 4;

struct Request {
  ModelShape model;
  Profile profile;
  std::uint32_t devices = 0;
  double context = 8192;  ///< tokens a sequence holds on average while it runs
  double tpot_ms = 50;    ///< longest mean time between two tokens of a sequence
  /// Prompt and generated tokens of a request: prompts are computed in the same steps, in
  /// proportion. 0 prompt: decode alone, prompts come from elsewhere.
  double prompt = 0;
  double output = 1;
  bool fp8_experts = false;  ///< half the bytes at the same rate
  double spare = 0.25;       ///< replicas more than one of each expert, as a part of all experts
  /// Part of a device's memory left to what is taken while serving (rows on their way, windows of
  /// links, replicas that move) and to fragmentation.
  double headroom = 0.1;
  /// Least --batch-tokens of a shard, more where a micro-batch has more rows; --batch-rows of a
  /// worker. Their memory is taken before anything is served.
  std::uint64_t batch_tokens = 512;
  std::uint64_t batch_rows = 8192;

  // What is given is not searched for.
  std::optional<Split> split;
  std::optional<std::uint32_t> micro_batches;
  std::optional<std::uint32_t> sequences;

  /// Prompt tokens computed for each generated one.
  double prefill_ratio() const { return prompt / output; }
};

}  // namespace fulgur::planner
