// A request inside the engine: its tokens, how many of them its state has seen, and what it holds.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "common/base/clock.hpp"
#include "common/transport/transport.hpp"
#include "common/wire/messages.hpp"
#include "services/attention/micro_batch.hpp"
#include "services/attention/sequence_trace.hpp"

namespace fulgur::attention {

enum class SequenceState : std::uint8_t {
  waiting,   ///< admitted to the queue; holds nothing
  running,   ///< holds a slot and pages
  swapped,   ///< preempted, or moved here: its state is in `snapshot`
  departed,  ///< on its way to another shard: its state is in `snapshot`, null if it had none
};

struct Sequence {
  SequenceId id = 0;
  transport::LinkId link = 0;  ///< the router that submitted it
  std::unique_ptr<SequenceTrace> trace;  ///< null: not sampled
  std::int64_t deadline_ns = 0;  ///< wall clock; 0: none
  wire::Submit submit;           ///< `tokens` grows as tokens are generated
  Nanoseconds arrived = 0;
  bool begun = false;  ///< has been in a micro-batch

  SequenceState state = SequenceState::waiting;
  std::uint64_t computed = 0;  ///< tokens the state has seen
  std::uint64_t prompt_reported = 0;  ///< positions whose prompt log-probabilities have been sent
  std::uint32_t memory_refusals = 0;  ///< times it had to start over because memory was refused
  std::uint32_t slot = 0;
  std::vector<std::uint32_t> pages;
  std::optional<std::uint32_t> lane;  ///< the micro-batch it is in
  bool cancelled = false;
  /// What the prompt cache is to keep of it: the state at the first step at or behind this position;
  /// 0: nothing, or done. A multiple of the block.
  std::uint64_t capture_at = 0;
  std::uint64_t cache_asked = 0;  ///< what the cache had been given when it was asked last
  std::uint64_t capture_key = 0;  ///< hash of the tokens up to there; 0: none
  bool departing = false;  ///< becomes departed as soon as it is not in flight
  std::shared_ptr<SequenceSnapshot> snapshot;

  std::uint64_t length() const { return submit.tokens.size(); }
  std::uint64_t pending() const { return length() - computed; }
  std::uint32_t generated() const {
    return static_cast<std::uint32_t>(length() - submit.prompt_tokens);
  }
};

}  // namespace fulgur::attention
