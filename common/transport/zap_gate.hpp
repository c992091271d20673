// Says who may come in: answers libzmq's question (ZAP, rfc.zeromq.org/spec/27) after a peer has
// proved to own the CURVE key it shows. Owned by the reactor thread, like every other socket;
// libzmq waits for the answer without holding anything up.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "common/transport/curve_keys.hpp"
#include "common/transport/zmq_socket.hpp"

namespace fulgur::transport {

/// ZMQ_ZAP_DOMAIN of a listener; being set, it also makes libzmq refuse all when nobody answers.
inline constexpr const char* kZapDomain = "fulgur";

class ZapGate {
 public:
  /// Create before any socket of `context` listens.
  ZapGate(ZmqContext& context, const std::vector<CurveKey>& allowed);

  int fd() const { return socket_.fd(); }
  /// Answers all questions that wait.
  void answer();

 private:
  bool answer_one();

  std::set<std::string> allowed_;  ///< public keys, 32 bytes each
  ZmqSocket socket_;
};

}  // namespace fulgur::transport
