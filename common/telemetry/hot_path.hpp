// Whether the services measure themselves on the hot path. Always, but for a bench that wants to know
// what it costs (bench/telemetry/paired.sh): FULGUR_HOT_PATH_TELEMETRY=off in the environment of a
// process leaves out the clock readings, tallies and observations that only metrics need. Busy times
// then stay 0, so autoscaling and the split of latencies have no input.
#pragma once

#include "common/base/clock.hpp"

namespace fulgur::telemetry {

extern const bool kHotPath;  ///< read from the environment once, before main()

/// A reading of the clock that nothing but metrics needs; 0 when they are off.
inline Nanoseconds stamp(const Clock& clock) { return kHotPath ? clock.now() : 0; }

}  // namespace fulgur::telemetry
