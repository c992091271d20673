// Turns the counters of heartbeats into what a pool did since the last look: how busy it was, how
// long work waited, what clients saw. Counters of a process start again with it. Plain class.
#pragma once

#include <map>
#include <string>

#include "common/base/clock.hpp"
#include "common/wire/messages.hpp"
#include "services/orchestrator/scaling_signal.hpp"

namespace fulgur::orchestrator {

/// Latencies clients were promised; 0: no promise.
struct LatencyTargets {
  Nanoseconds first_token = 0;
  Nanoseconds inter_token = 0;
};

class PoolMeter {
 public:
  /// A heartbeat of a member; `now` is when it came.
  void observe(const std::string& name, std::uint64_t incarnation, const wire::Load& load,
               Nanoseconds now);
  void forget(const std::string& name) { members_.erase(name); }

  /// What happened since the last call. `replicas`: members that serve. slo_use is not known here.
  PoolSample take(std::uint32_t replicas);
  /// Measured latency over its target, the worse of the two, since the last call; 0: no promise or
  /// nothing measured. Of a meter that observes routers.
  double take_slo_use(const LatencyTargets& targets);

 private:
  struct Seen {
    std::uint64_t incarnation = 0;
    Nanoseconds at = 0;
    wire::Load load;
  };
  struct Sums {
    double time = 0;  ///< of all members, added
    double busy = 0;
    double wait = 0;
    double waits = 0;
    double first_token = 0;
    double first_tokens = 0;
    double inter_token = 0;
    double inter_tokens = 0;
  };

  std::map<std::string, Seen> members_;
  Sums since_;  ///< work since the last take()
};

}  // namespace fulgur::orchestrator
