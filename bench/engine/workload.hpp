// The engine benchmark's workloads, over anything that takes requests and returns tokens: the
// single-process engine or a running mesh.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "common/base/clock.hpp"
#include "common/wire/messages.hpp"

namespace fulgur::bench {

/// What a workload drives. wait() blocks until `done()` holds, serving events meanwhile.
struct Target {
  std::function<std::uint64_t(wire::Submit)> submit;
  std::function<std::size_t(std::uint64_t request)> tokens;  ///< generated so far
  std::function<bool(std::uint64_t request)> finished;
  std::function<void(const std::function<bool()>& done)> wait;
};

/// What bounds decode: expert weights read, by groups of tokens that share them, and passes over the
/// rest of the weights; totals since the start.
struct WeightReads {
  double expert_groups = 0;
  double steps = 0;
  friend bool operator==(const WeightReads&, const WeightReads&) = default;
};

/// One measured point.
struct Point {
  std::uint32_t batch = 0;     ///< parallel sequences; 1 for prefill
  std::uint32_t prompt = 0;    ///< tokens a sequence
  std::uint32_t tokens = 0;    ///< counted tokens: generated, or the prompt's
  Nanoseconds elapsed = 0;
  double tokens_per_s() const { return tokens * 1e9 / static_cast<double>(elapsed); }
};

/// Requests with random tokens, no prompt twice: a shard would take the second one from its cache.
class Prompts {
 public:
  Prompts(std::uint32_t vocab, std::uint64_t seed) : vocab_(vocab), drawn_(seed << 32) {}
  wire::Submit next(std::uint32_t prompt, std::uint32_t steps);

 private:
  const std::uint32_t vocab_;
  std::uint64_t drawn_;
};

/// `batch` sequences of `prompt` seeded random tokens, each generating `steps` tokens after a warm-up
/// of a few; the time between the end of the warm-up and the last token.
Point measure_decode(Target& target, const Clock& clock, Prompts& prompts, std::uint32_t batch,
                     std::uint32_t prompt, std::uint32_t steps);

/// One sequence of `prompt` tokens: the time to its first token.
Point measure_prefill(Target& target, const Clock& clock, Prompts& prompts, std::uint32_t prompt);

}  // namespace fulgur::bench
