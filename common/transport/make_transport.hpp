// The transport of a service process: ZeroMQ to every peer, shared memory for the payload of peers
// on the same host.
#pragma once

#include <memory>

#include "common/transport/options.hpp"
#include "common/transport/transport.hpp"

namespace fulgur::transport {

/// Listens on options.listen and connects where told. invalid_argument for an endpoint that cannot
/// be parsed, unavailable for one that cannot be bound; the message names it. The caller's reactor
/// thread owns every socket: nothing is sent or received outside its calls, except by ZeroMQ's own
/// thread.
Result<std::unique_ptr<Transport>> make_transport(const Identity& identity,
                                                  const TransportOptions& options);

}  // namespace fulgur::transport
