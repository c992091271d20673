#include "services/orchestrator/pools.hpp"

namespace fulgur::orchestrator {

using wire::ServiceKind;

void Pools::observe(ServiceKind kind, const std::string& name, std::uint64_t incarnation,
                    const wire::Load& load, Nanoseconds now) {
  if (kind == ServiceKind::expert) workers_.observe(name, incarnation, load, now);
  if (kind == ServiceKind::attention) shards_.observe(name, incarnation, load, now);
  if (kind == ServiceKind::router) routers_.observe(name, incarnation, load, now);
}

void Pools::forget(const std::string& name) {
  for (PoolMeter* const meter : {&workers_, &shards_, &routers_}) meter->forget(name);
}

void Pools::tick(std::uint32_t experts, std::uint32_t attention, Nanoseconds now) {
  if (now < next_) return;
  next_ = now + options_.period;
  PoolSample workers = workers_.take(experts);
  PoolSample shards = shards_.take(attention);
  (workers.busy > shards.busy ? workers : shards).slo_use = routers_.take_slo_use(options_.latency);
  experts_.observe(workers, now);
  attention_.observe(shards, now);
}

}  // namespace fulgur::orchestrator
