// The metrics of an expert worker, brought up to date on the reactor's thread.
#pragma once

#include <functional>

#include "common/service/service.hpp"
#include "services/expert/worker.hpp"

namespace fulgur::expert {

/// Registers the worker's metrics; the result refreshes them and the admin's readiness. All
/// references outlive the returned function.
std::function<void()> worker_metrics(telemetry::Metrics& metrics, actor::Reactor& reactor,
                                     Worker& worker, service::Admin& admin);

}  // namespace fulgur::expert
