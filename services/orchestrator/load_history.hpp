// Exponentially decayed tokens of every (layer, expert): what load-aware placement plans by. Fed
// with the increments that workers send in heartbeats. It forgets by tokens, so an idle mesh keeps
// what it knows, and by time too when asked. Plain class, one thread.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "common/base/clock.hpp"
#include "common/wire/messages.hpp"
#include "services/orchestrator/replica_map.hpp"

namespace fulgur::orchestrator {

struct LoadHistoryOptions {
  /// A token counts half after this many more (token, slot) pairs of its layer; 0: never.
  double half_life_tokens = 262'144;
  /// A token counts half after this long; 0: age alone changes nothing.
  Nanoseconds half_life = 0;
};

class LoadHistory {
 public:
  LoadHistory(ModelShape shape, LoadHistoryOptions options, const Clock& clock)
      : shape_(shape),
        options_(options),
        clock_(clock),
        decayed_at_(clock.now()),
        tokens_(shape.cells()) {}

  /// Adds one heartbeat's increments; cells outside the model are ignored.
  void add(std::span<const wire::ExpertTokens> increments);

  /// Decayed tokens as of now, [layers, experts].
  std::vector<double> snapshot() const;
  /// (token, slot) pairs a layer has seen, decayed; the mean over layers.
  double tokens_per_layer() const;

 private:
  void decay(double factor);
  double age_factor() const;

  ModelShape shape_;
  LoadHistoryOptions options_;
  const Clock& clock_;
  Nanoseconds decayed_at_;
  std::vector<double> tokens_;  ///< [layers, experts] as of decayed_at_
};

}  // namespace fulgur::orchestrator
