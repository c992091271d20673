// A histogram that costs the hot path two additions: one thread counts, MirroredHistogram copies
// the counts to the exported histogram together with the process's other totals.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

#include "common/telemetry/hot_path.hpp"

namespace fulgur::telemetry {

class Tally {
 public:
  /// `bounds`: upper bounds of the buckets, ascending; one more bucket holds what exceeds them.
  explicit Tally(std::vector<double> bounds)
      : bounds_(std::move(bounds)), counts_(bounds_.size() + 1) {}

  void add(double value) {
    if (!hot_path_on()) return;
    const auto bucket = std::lower_bound(bounds_.begin(), bounds_.end(), value) - bounds_.begin();
    ++counts_[static_cast<std::size_t>(bucket)];
    sum_ += value;
  }

  const std::vector<double>& bounds() const { return bounds_; }
  const std::vector<std::uint64_t>& counts() const { return counts_; }  ///< not cumulative
  double sum() const { return sum_; }

 private:
  std::vector<double> bounds_;
  std::vector<std::uint64_t> counts_;
  double sum_ = 0;
};

}  // namespace fulgur::telemetry
