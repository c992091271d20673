// The in-process transport: a Hub connects several Transport endpoints "inproc://name" of one
// process. Frames are passed by reference, nothing is copied. Without threads everything happens
// inside send(), connect() and poll(), in order: the simulation decides who is polled when.
#pragma once

#include <memory>
#include <string>

#include "common/transport/options.hpp"
#include "common/transport/transport.hpp"

namespace fulgur::transport {

class HubState;

/// Thread-safe; the Transports it makes obey the thread contract of Transport each, and may outlive
/// the Hub.
class Hub {
 public:
  explicit Hub(LinkLimits limits = {});
  ~Hub();
  Hub(const Hub&) = delete;
  Hub& operator=(const Hub&) = delete;

  /// A transport that listens on `endpoint` ("inproc://name"; empty: only connects).
  /// invalid_argument for another scheme, failed_precondition when the endpoint is taken.
  /// Destroying it takes its links down at the peers, like the death of a process.
  Result<std::unique_ptr<Transport>> make(Identity identity, const std::string& endpoint);

  /// Takes all links between the processes of these names down and keeps them down until heal().
  void cut(const std::string& name_a, const std::string& name_b);
  void heal(const std::string& name_a, const std::string& name_b);

 private:
  std::shared_ptr<HubState> state_;
};

}  // namespace fulgur::transport
