// One contestant of the transport benchmark: a server that echoes in a process of its own, and the
// client that measures it. Every contestant moves the same number of payload bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "common/base/status.hpp"

namespace fulgur::bench {

/// What the server does with a message.
enum class Mode : std::uint32_t {
  echo = 0,  ///< send as many bytes back
  sink = 1,  ///< nothing
  last = 2,  ///< send a short answer: everything before has arrived
};

/// Runs in the parent. Not thread-safe.
class EchoClient {
 public:
  virtual ~EchoClient() = default;
  /// Sends `bytes` of payload and waits until as many came back.
  virtual void round_trip(std::size_t bytes) = 0;
  /// Sends `count` messages of `bytes` and waits until the last one has arrived.
  virtual void one_way(std::size_t bytes, std::size_t count) = 0;
};

struct Contestant {
  std::string name;
  /// Runs in a forked child until killed; calls `ready` with its address once it listens.
  std::function<void(const std::function<void(const std::string&)>& ready)> serve;
  std::function<std::unique_ptr<EchoClient>(const std::string& address)> connect;
  std::string missing;  ///< why it cannot run; empty if it can
  bool two_threads = false;  ///< no child: client and server are threads of this process
};

Contestant inproc_contestant(int server_core);
Contestant shm_contestant();
/// coded: messages of the dispatch path, encoded and decoded; else plain bytes.
Contestant mesh_zmq_contestant(const std::string& name, const std::string& listen, bool coded);
Contestant unix_socket_contestant(const std::string& path);
Contestant bare_zmq_contestant(const std::string& name, const std::string& listen);
Contestant grpc_contestant(const std::string& name, const std::string& listen);

/// Pins the calling thread to one core; a core that is not there is ignored.
void pin_to(int core);

}  // namespace fulgur::bench
