// How fast a worker answers, as one shard sees it: time for a unit of work, waiting for other
// shards' work and the network included, waiting behind this shard's own work not. Learned from
// answers; an answer that is overdue counts before it comes. Plain class, one thread.
#pragma once

#include <cstdint>

#include "common/base/clock.hpp"

namespace fulgur::attention {

class WorkerPace {
 public:
  WorkerPace() = default;
  /// Nothing is known, and what is outstanding counts from now.
  explicit WorkerPace(Nanoseconds now) : busy_since_(now) {}

  /// Work was sent; `alone`: the worker owed nothing before.
  void sent(Nanoseconds now, bool alone) {
    if (alone) busy_since_ = now;
  }
  /// The answer to `units` of work came, or never will (then this is a lower bound); `alone`: the
  /// worker owed nothing else from when it was sent.
  void answered(Nanoseconds now, double units, bool alone);

  bool measured() const { return units_ > 0; }
  /// Whether so many answers stand behind it that others may be told.
  bool well_measured() const { return answers_ >= 16; }
  /// Nanoseconds a unit; 0: not measured. `units_owed` is the size of a dispatch that is
  /// outstanding, 0 when none is.
  double value(Nanoseconds now, double units_owed) const;

 private:
  Nanoseconds busy_since_ = 0;   ///< since when the worker is on the oldest outstanding dispatch
  Nanoseconds answered_at_ = 0;  ///< last
  double time_ = 0;              ///< decayed sums over answers
  double units_ = 0;
  std::uint32_t answers_ = 0;
  int surprises_ = 0;  ///< answers in a row twice as slow (> 0) or as fast (< 0) as expected
};

}  // namespace fulgur::attention
