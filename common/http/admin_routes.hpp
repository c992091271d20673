// The endpoints every service has for its operator: /metrics, /healthz, /readyz.
#pragma once

#include <functional>
#include <string>

#include "common/http/server.hpp"

namespace fulgur::http {

struct Readiness {
  bool ready = true;
  std::string reason = "ok";  ///< one line, also when ready
};

/// Called on the server's thread: must be thread-safe and must not block.
struct AdminSources {
  std::function<std::string()> metrics = {};  ///< Prometheus text format
  std::function<Readiness()> readiness = {};  ///< always ready when empty
};

/// Adds the three routes; call before Server::start().
void add_admin_routes(Server& server, AdminSources sources);

}  // namespace fulgur::http
