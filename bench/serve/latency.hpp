// Percentiles over every sample, by nearest rank: each figure is a latency that some request had.
#pragma once

#include <cstddef>
#include <vector>

#include "common/base/clock.hpp"

namespace fulgur::bench::serve {

/// All zero when there are no samples.
struct Latency {
  std::size_t samples = 0;
  Nanoseconds p50 = 0;
  Nanoseconds p90 = 0;
  Nanoseconds p99 = 0;
  Nanoseconds max = 0;
};

/// The smallest sample that at least `percent` of the samples do not exceed; `percent` in (0, 100].
/// `sorted` ascends and is not empty.
Nanoseconds percentile(const std::vector<Nanoseconds>& sorted, double percent);

Latency summarize(std::vector<Nanoseconds> samples);

}  // namespace fulgur::bench::serve
