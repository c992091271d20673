#include "bench/serve/latency.hpp"

#include <algorithm>
#include <cmath>

#include "common/base/assert.hpp"

namespace fulgur::bench::serve {

Nanoseconds percentile(const std::vector<Nanoseconds>& sorted, double percent) {
  FULGUR_ASSERT(!sorted.empty() && percent > 0 && percent <= 100, "percentile of nothing");
  // 99 * n / 100 is exact where n * 0.99 is not; the rank decides, so rounding up would be wrong.
  const double rank = std::ceil(percent * static_cast<double>(sorted.size()) / 100);
  return sorted[static_cast<std::size_t>(std::max(rank, 1.0)) - 1];
}

Latency summarize(std::vector<Nanoseconds> samples) {
  if (samples.empty()) return {};
  std::sort(samples.begin(), samples.end());
  return {samples.size(), percentile(samples, 50), percentile(samples, 90),
          percentile(samples, 99), samples.back()};
}

}  // namespace fulgur::bench::serve
