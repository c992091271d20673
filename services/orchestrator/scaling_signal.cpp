#include "services/orchestrator/scaling_signal.hpp"

#include <algorithm>
#include <cmath>

namespace fulgur::orchestrator {
namespace {

constexpr double kPressureMax = 2;  // one step at most doubles a pool

}  // namespace

void ScalingSignal::smooth(const PoolSample& sample, Nanoseconds now) {
  const double work = std::clamp(sample.busy, 0.0, 1.0) * sample.replicas;
  const double elapsed = static_cast<double>(std::max<Nanoseconds>(0, now - observed_at_));
  const bool first = observed_at_ < 0;
  const double keep =
      first ? 0 : std::exp(-elapsed / static_cast<double>(std::max<Nanoseconds>(1, options_.smoothing)));
  work_ = keep * work_ + (1 - keep) * work;
  wait_ = keep * wait_ + (1 - keep) * static_cast<double>(sample.wait);
  slo_use_ = keep * slo_use_ + (1 - keep) * std::max(0.0, sample.slo_use);
  replicas_ = sample.replicas;
  busy_ = sample.replicas > 0 ? work_ / sample.replicas : 0;
  observed_at_ = now;
}

/// Replicas that would do the present work at the target, more when work waits or clients are
/// near their limit although the pool is busy.
std::uint32_t ScalingSignal::size_for_load() {
  reason_ = "busy";
  double size = work_ / options_.busy_target;
  const double overload = std::max(wait_ / static_cast<double>(options_.wait_target), slo_use_);
  // A pool that idles does not get faster by more replicas, whatever else makes clients wait.
  const bool loaded = busy_ > options_.busy_target / 2;
  if (loaded && overload > 1 + options_.tolerance) {
    const double pressed = replicas_ * std::min(overload, kPressureMax);
    if (pressed > size) reason_ = overload > slo_use_ ? "wait" : "latency";
    size = std::max(size, pressed);
  }
  // Within the tolerance the present size is right.
  if (replicas_ > 0 && size > replicas_ && size <= replicas_ * (1 + options_.tolerance))
    size = replicas_;
  const double bounded = std::clamp(std::ceil(size - 1e-9), 0.0, 1e6);
  return static_cast<std::uint32_t>(bounded);
}

void ScalingSignal::observe(const PoolSample& sample, Nanoseconds now) {
  const bool first = observed_at_ < 0;
  smooth(sample, now);
  std::uint32_t size = size_for_load();
  if (first) size = std::max(size, sample.replicas);  // what runs is right until a window has passed
  if (size < options_.floor) reason_ = "floor";
  if (size > options_.ceiling) reason_ = "ceiling";
  size = std::clamp(size, options_.floor, std::max(options_.floor, options_.ceiling));
  if (first) wanted_ = size;
  const bool cool = grown_at_ < 0 || now - grown_at_ >= options_.grow_cooldown;
  if (size > wanted_) {
    if (cool) {
      wanted_ = std::min(size, std::max(1U, wanted_) * static_cast<std::uint32_t>(kPressureMax));
      grown_at_ = now;
    }
    size = wanted_;
  }
  shrink_to(size, now);
}

void ScalingSignal::shrink_to(std::uint32_t size, Nanoseconds now) {
  while (!wishes_.empty() && wishes_.back().size <= size) wishes_.pop_back();
  wishes_.push_back({now, size});
  while (now - wishes_.front().at >= options_.shrink_window) wishes_.pop_front();
  wanted_ = std::min(wanted_, wishes_.front().size);
}

}  // namespace fulgur::orchestrator
