// Sends the process log elsewhere than stderr: the simulation reads it as part of its trace.
#pragma once

#include <functional>
#include <string_view>

#include "common/base/log.hpp"

namespace fulgur::log {

using Sink = std::function<void(Level level, std::string_view line)>;

/// Records of `least` and above go to `sink` from now on; an empty sink ends that. Only where one
/// thread owns the process: neither this nor the sink is guarded.
void redirect(Level least, Sink sink);

}  // namespace fulgur::log
