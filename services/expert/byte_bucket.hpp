// A token bucket in bytes: how background loading shares disk and memory with serving. Whoever
// finds it above zero takes what it needs, into debt if need be, and the next one waits until the
// debt is paid. Plain class, time from its caller.
#pragma once

#include <algorithm>
#include <cstdint>

#include "common/base/clock.hpp"

namespace fulgur::expert {

class ByteBucket {
 public:
  /// bytes_per_second 0: no limit. Starts full, with what kDepth brings.
  explicit ByteBucket(std::uint64_t bytes_per_second)
      : rate_(static_cast<double>(bytes_per_second)), level_(rate_ * kDepth) {}

  /// Takes `bytes` and returns 0, or takes nothing and returns how long to wait.
  Nanoseconds take(std::uint64_t bytes, Nanoseconds now) {
    if (rate_ <= 0) return 0;
    if (filled_at_ >= 0) {
      const double seconds = static_cast<double>(now - filled_at_) / static_cast<double>(kSecond);
      level_ = std::min(rate_ * kDepth, level_ + rate_ * std::max(0.0, seconds));
    }
    filled_at_ = now;
    if (level_ < 0)
      return 1 + static_cast<Nanoseconds>(-level_ / rate_ * static_cast<double>(kSecond));
    level_ -= static_cast<double>(bytes);
    return 0;
  }

  /// Counts bytes that were not asked for: urgent ones, which nobody waits with.
  void charge(std::uint64_t bytes) {
    level_ = std::max(-rate_ * kDebt, level_ - static_cast<double>(bytes));
  }

 private:
  static constexpr double kDepth = 0.1;  ///< seconds of rate that may be taken at once
  static constexpr double kDebt = 1;     ///< seconds of rate that urgent loads may delay others by

  double rate_;
  double level_;
  Nanoseconds filled_at_ = -1;
};

}  // namespace fulgur::expert
