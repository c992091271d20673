// What a transport may be told: bounds, where to listen, which carriers, keys, how long to spin.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "common/base/clock.hpp"
#include "common/transport/curve_keys.hpp"
#include "common/transport/transport.hpp"

namespace fulgur::transport {

/// Bounds of what waits on one link in one direction. A message larger than `queue_bytes` is taken
/// when nothing else waits. Beyond them send() answers resource_exhausted.
struct LinkLimits {
  std::size_t queue_messages = 1024;
  std::size_t queue_bytes = 64U << 20;
};

struct TransportOptions {
  /// ZeroMQ endpoints to listen on; "tcp://host:*" picks a port. May be empty.
  std::vector<std::string> listen;
  /// Replaces the host in endpoint() when listening on a wildcard address.
  std::string advertise_host;
  Carrier allowed = Carrier::automatic;  ///< automatic, zmq or shm
  LinkLimits limits;
  /// Keys of the mesh; empty: links are neither encrypted nor authenticated. Listens with the first,
  /// lets in who has any of them, connects with each in turn.
  std::vector<CurveKey> curve;
  std::size_t ring_bytes = 4U << 20;   ///< of one direction of a shared-memory link; power of two
  Nanoseconds spin = 100 * kMicrosecond;  ///< longest busy wait for a message; it adapts
  Nanoseconds heartbeat = 5 * kSecond;   ///< between pings; a peer silent for three is gone
  Nanoseconds reconnect_first = 10 * kMillisecond;
  Nanoseconds reconnect_last = 1 * kSecond;
  Nanoseconds hello_timeout = 10 * kSecond;  ///< connected, but the peer says no Hello
};

}  // namespace fulgur::transport
