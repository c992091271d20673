// The orchestrator's HTTP commands: GET /v1/mesh and /admin/state, POST /admin/drain and
// /admin/undrain. Bodies are JSON and must say so, which also keeps web pages of strangers out.
#pragma once

#include "common/http/server.hpp"
#include "services/orchestrator/orchestrator_actor.hpp"

namespace fulgur::orchestrator {

/// {"name": N} or {"names": [N, …]}. invalid_argument saying what is wrong with it.
Result<std::vector<std::string>> parse_names(const std::string& body);

/// HTTP status of a command that was refused.
int http_status(Code code);

/// Adds the routes; they ask `orchestrator`. Before the server starts.
void add_admin_api(http::Server& server, const actor::Handle& orchestrator);

}  // namespace fulgur::orchestrator
