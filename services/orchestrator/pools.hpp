// The two pools that scale, experts and attention: heartbeats in, wanted sizes out. Latency that
// clients see is charged to the busier pool, because more of the other would not help. Plain class.
#pragma once

#include <string>

#include "services/orchestrator/pool_meter.hpp"
#include "services/orchestrator/scaling_signal.hpp"

namespace fulgur::orchestrator {

struct PoolsOptions {
  ScalingOptions experts;
  ScalingOptions attention;
  LatencyTargets latency;
  Nanoseconds period = kSecond;  ///< between two looks
};

class Pools {
 public:
  explicit Pools(const PoolsOptions& options)
      : options_(options), experts_(options.experts), attention_(options.attention) {}

  void observe(wire::ServiceKind kind, const std::string& name, std::uint64_t incarnation,
               const wire::Load& load, Nanoseconds now);
  void forget(const std::string& name);
  /// Looks when it is time; the counts are of members that serve.
  void tick(std::uint32_t experts, std::uint32_t attention, Nanoseconds now);

  const ScalingSignal& experts() const { return experts_; }
  const ScalingSignal& attention() const { return attention_; }
  const PoolsOptions& options() const { return options_; }

 private:
  PoolsOptions options_;
  ScalingSignal experts_;
  ScalingSignal attention_;
  PoolMeter workers_;
  PoolMeter shards_;
  PoolMeter routers_;
  Nanoseconds next_ = 0;
};

}  // namespace fulgur::orchestrator
