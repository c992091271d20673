// The operations page: GET / and its files below /ops/, embedded when the orchestrator is built,
// and /v1/events, the stream it lives on. Everything here only reads.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "common/http/server.hpp"
#include "services/orchestrator/orchestrator_actor.hpp"

namespace fulgur::orchestrator {

/// Value of `key` in a raw query ("a=1&b=2"), not decoded; nothing when it is not there.
std::optional<std::string> query_value(std::string_view query, std::string_view key);

/// Adds the routes; the stream asks `orchestrator`. Before the server starts.
///
/// GET /v1/events is a stream of server-sent events (mesh, load, placement, log). With
/// ?since=LOG.ID it is a JSON list of events instead, unless the client accepts text/event-stream;
/// that client hears of events after `since`, or after its Last-Event-ID. 503 when too many watch.
void add_ops_page(http::Server& server, const actor::Handle& orchestrator);

}  // namespace fulgur::orchestrator
