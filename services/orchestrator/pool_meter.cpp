#include "services/orchestrator/pool_meter.hpp"

#include <algorithm>

namespace fulgur::orchestrator {
namespace {

/// Growth of a counter; a peer that counts backwards has grown by nothing.
double grown(std::uint64_t now, std::uint64_t before) {
  return now > before ? static_cast<double>(now - before) : 0;
}

double over(double sum, double count) { return count > 0 ? sum / count : 0; }

}  // namespace

void PoolMeter::observe(const std::string& name, std::uint64_t incarnation, const wire::Load& load,
                        Nanoseconds now) {
  const auto found = members_.find(name);
  if (found != members_.end() && found->second.incarnation == incarnation &&
      now > found->second.at) {
    const wire::Load& last = found->second.load;
    since_.time += static_cast<double>(now - found->second.at);
    since_.busy += grown(load.busy_ns_total, last.busy_ns_total);
    since_.wait += grown(load.wait_ns_total, last.wait_ns_total);
    since_.waits += grown(load.requests_total, last.requests_total);
    since_.first_token += grown(load.first_token_ns_total, last.first_token_ns_total);
    since_.first_tokens += grown(load.first_tokens_total, last.first_tokens_total);
    since_.inter_token += grown(load.inter_token_ns_total, last.inter_token_ns_total);
    since_.inter_tokens += grown(load.inter_tokens_total, last.inter_tokens_total);
  }
  members_.insert_or_assign(name, Seen{incarnation, now, load});
}

PoolSample PoolMeter::take(std::uint32_t replicas) {
  PoolSample sample;
  sample.replicas = replicas;
  sample.busy = std::min(1.0, over(since_.busy, since_.time));
  // Work that waits without any of it being done yet waits all the same.
  sample.wait = static_cast<Nanoseconds>(since_.wait / std::max(1.0, since_.waits));
  since_ = {};
  return sample;
}

double PoolMeter::take_slo_use(const LatencyTargets& targets) {
  const auto use = [](double sum, double count, Nanoseconds target) {
    return target > 0 ? over(sum, count) / static_cast<double>(target) : 0;
  };
  const double first = use(since_.first_token, since_.first_tokens, targets.first_token);
  const double inter = use(since_.inter_token, since_.inter_tokens, targets.inter_token);
  since_ = {};
  return std::max(first, inter);
}

}  // namespace fulgur::orchestrator
