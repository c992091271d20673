#include "common/transport/zap_gate.hpp"

#include <fmt/format.h>
#include <zmq.h>

#include <array>
#include <cerrno>
#include <cstdint>
#include <string_view>

namespace fulgur::transport {
namespace {

constexpr const char* kEndpoint = "inproc://zeromq.zap.01";
constexpr std::string_view kVersion = "1.0";
// Parts of a question: version, request, domain, address, identity, mechanism, credentials.
constexpr std::size_t kRequest = 1;
constexpr std::size_t kMechanism = 5;
constexpr std::size_t kCredentials = 6;

std::string decoded(const std::string& z85) {
  std::array<std::uint8_t, 32> bytes{};
  FULGUR_ASSERT(zmq_z85_decode(bytes.data(), z85.c_str()) != nullptr, "a CURVE key is not Z85");
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

}  // namespace

ZapGate::ZapGate(ZmqContext& context, const std::vector<CurveKey>& allowed)
    : socket_(context, ZMQ_REP) {
  for (const CurveKey& key : allowed) allowed_.insert(decoded(key.public_key));
  socket_.set(ZMQ_LINGER, 0);
  const int rc = zmq_bind(socket_.raw(), kEndpoint);
  FULGUR_ASSERT(rc == 0, fmt::format("zmq_bind {}: {}", kEndpoint, zmq_strerror(errno)));
}

void ZapGate::answer() {
  while (answer_one()) {
  }
}

bool ZapGate::answer_one() {
  std::vector<std::string> parts;
  for (int more = 1; more != 0;) {
    zmq_msg_t part;
    zmq_msg_init(&part);
    if (zmq_msg_recv(&part, socket_.raw(), ZMQ_DONTWAIT) == -1) {
      zmq_msg_close(&part);
      return false;
    }
    parts.emplace_back(static_cast<const char*>(zmq_msg_data(&part)), zmq_msg_size(&part));
    more = zmq_msg_more(&part);
    zmq_msg_close(&part);
  }
  const bool known = parts.size() == kCredentials + 1 && parts[kMechanism] == "CURVE" &&
                     allowed_.contains(parts[kCredentials]);
  const std::string request = parts.size() > kRequest ? parts[kRequest] : std::string();
  const std::array<std::string_view, 6> reply = {
      kVersion, request, known ? "200" : "400", known ? "OK" : "unknown key", "", ""};
  for (std::size_t i = 0; i < reply.size(); ++i) {
    const int flags = ZMQ_DONTWAIT | (i + 1 < reply.size() ? ZMQ_SNDMORE : 0);
    zmq_send(socket_.raw(), reply[i].data(), reply[i].size(), flags);
  }
  return true;
}

}  // namespace fulgur::transport
