// The metrics of an attention shard, brought up to date on the reactor's thread.
#pragma once

#include <functional>

#include "common/service/service.hpp"
#include "services/attention/shard.hpp"

namespace fulgur::attention {

/// Registers the shard's metrics; the result refreshes them and the admin's readiness. All
/// references outlive the returned function.
std::function<void()> shard_metrics(telemetry::Metrics& metrics, actor::Reactor& reactor,
                                    Shard& shard, service::Admin& admin);

}  // namespace fulgur::attention
