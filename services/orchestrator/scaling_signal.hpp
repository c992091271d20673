// How many replicas a pool should have, from how busy it is, how long work waits for it and how
// near clients are to their latency target. A proportional rule as in Kubernetes' autoscaler
// (load per replica against a target), made calm: growth is immediate but at most a doubling a
// cool-down; shrinking takes the largest size wanted within a window, so that a pause is no reason.
// The orchestrator only says the number; `fulgur scale`, KEDA or an HPA acts on it.
//
// Plain class, one thread, time from its caller.
#pragma once

#include <cstdint>
#include <deque>
#include <string_view>

#include "common/base/clock.hpp"

namespace fulgur::orchestrator {

struct ScalingOptions {
  std::uint32_t floor = 1;
  std::uint32_t ceiling = 64;
  double busy_target = 0.7;               ///< part of its time a replica computes
  Nanoseconds wait_target = 50 * kMillisecond;  ///< mean wait of a piece of work
  double tolerance = 0.1;                 ///< no growth while within this part of the targets
  Nanoseconds smoothing = 5 * kSecond;    ///< time constant of the averages
  Nanoseconds grow_cooldown = 15 * kSecond;
  Nanoseconds shrink_window = 180 * kSecond;  ///< nothing shrinks below what was wanted within it
};

/// One look at a pool.
struct PoolSample {
  std::uint32_t replicas = 0;  ///< that serve now
  double busy = 0;             ///< mean part of their time they computed since the last look, 0..1
  Nanoseconds wait = 0;        ///< mean wait of what ran since the last look; 0: nothing ran
  double slo_use = 0;          ///< measured latency over its target, 1: no headroom; 0: not known
};

class ScalingSignal {
 public:
  explicit ScalingSignal(ScalingOptions options) : options_(options), wanted_(options.floor) {}

  /// Time may not go backwards; any period will do, about a second is meant.
  void observe(const PoolSample& sample, Nanoseconds now);

  std::uint32_t wanted() const { return wanted_; }
  std::uint32_t replicas() const { return replicas_; }
  double busy() const { return busy_; }
  Nanoseconds wait() const { return static_cast<Nanoseconds>(wait_); }
  /// What asks for the present size: "busy", "wait", "latency", "floor" or "ceiling".
  std::string_view reason() const { return reason_; }

 private:
  void smooth(const PoolSample& sample, Nanoseconds now);
  std::uint32_t size_for_load();
  void shrink_to(std::uint32_t size, Nanoseconds now);

  ScalingOptions options_;
  std::uint32_t wanted_;
  std::uint32_t replicas_ = 0;
  double busy_ = 0;
  double work_ = 0;  ///< busy replicas, smoothed: does not jump when the pool changes size
  double wait_ = 0;
  double slo_use_ = 0;
  Nanoseconds observed_at_ = -1;
  Nanoseconds grown_at_ = -1;
  std::string_view reason_ = "floor";
  struct Wish {
    Nanoseconds at;
    std::uint32_t size;
  };
  std::deque<Wish> wishes_;  ///< of the window, sizes descending: the front is its largest
};

}  // namespace fulgur::orchestrator
