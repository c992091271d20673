// The admin endpoint of a service: /metrics, /healthz and /readyz on a thread of its own.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "common/http/admin_routes.hpp"
#include "common/telemetry/metrics.hpp"

namespace fulgur::telemetry {

/// Binds "HOST:PORT" (port 0: any) and adds the three routes. Add routes of your own if you like,
/// then start(). `metrics` outlives the server; `readiness` must be thread-safe.
/// invalid_argument for a malformed address, unavailable when the port is taken.
Result<std::unique_ptr<http::Server>> open_admin(const std::string& address, const Metrics& metrics,
                                                 std::function<http::Readiness()> readiness);

}  // namespace fulgur::telemetry
