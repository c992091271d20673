// Child processes of `fulgur up`: one starts, is watched, started again with back-off when it dies,
// and ended. A child never outlives its parent (PR_SET_PDEATHSIG), whatever kills that.
#pragma once

#include <sys/types.h>

#include <algorithm>
#include <string>
#include <vector>

#include "common/base/clock.hpp"
#include "common/base/status.hpp"

namespace fulgur::cli {

/// Starts `program` with stdout and stderr appended to `log`, in a process group of its own (a
/// terminal's Ctrl-C is for the parent). Call from the thread that lives as long as the parent.
Result<pid_t> spawn(const std::string& program, const std::vector<std::string>& arguments,
                    const std::string& log);

/// "exited with 1", "killed by signal 9".
std::string describe_exit(int wait_status);

/// Last line of a log that is not empty; what a service said before it died.
std::string last_line(const std::string& path);

/// How long to wait before the next start: doubles with every failure, falls back after a good run.
class Backoff {
 public:
  /// A run of `lived` ended now; returns the delay until the next start.
  Nanoseconds next(Nanoseconds lived) {
    if (lived >= kGoodRun) delay_ = 0;
    const Nanoseconds now = delay_;
    delay_ = delay_ == 0 ? kFirst : std::min(delay_ * 2, kLast);
    return now;
  }

 private:
  static constexpr Nanoseconds kGoodRun = 10 * kSecond;
  static constexpr Nanoseconds kFirst = 200 * kMillisecond;
  static constexpr Nanoseconds kLast = 10 * kSecond;
  Nanoseconds delay_ = 0;  ///< the first restart is immediate
};

}  // namespace fulgur::cli
