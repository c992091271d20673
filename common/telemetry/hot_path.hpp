// Whether the services measure themselves on the hot path. Always, but for the bench that wants to know
// what it costs (bench/telemetry/paired.py): in a process started with FULGUR_HOT_PATH_TELEMETRY=switch
// each SIGUSR1 leaves out, or takes up again, the clock readings, tallies and observations that only
// metrics need. Busy times are meaningless then, so autoscaling and the split of latencies are too.
#pragma once

#include <atomic>

#include "common/base/clock.hpp"
#include "common/base/trace_context.hpp"

namespace fulgur::telemetry {

extern std::atomic<bool> hot_path;  ///< read hot_path_on()
inline bool hot_path_on() { return hot_path.load(std::memory_order_relaxed); }

/// A reading for durations that nothing but metrics needs; 0 when they are off. Of the host's clock it
/// is the processor's counter scaled to that clock, within microseconds of it, never before the thread's
/// last one: an ordinary reading waits until all earlier instructions are done, which costs a decode step
/// ten times what a loop of readings shows.
Nanoseconds stamp(const Clock& clock);

/// For work that may be traced: of a traced one the clock itself, since its spans lie among spans of
/// other threads and processes, and microseconds off it one would leave its parent.
inline Nanoseconds stamp(const Clock& clock, const TraceContext& trace) {
  return trace.sampled() ? clock.now() : stamp(clock);
}

}  // namespace fulgur::telemetry
