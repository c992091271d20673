// One link of a MeshTransport, dialed or accepted, and its place in the handshake:
//   dialed:   backoff -> greeted (Hello sent) [-> offered (shared memory offered)] -> up -> backoff
//   accepted: [offered (waiting for the offer)] -> up -> lost
#pragma once

#include <memory>
#include <string>

#include "common/transport/shm_link.hpp"
#include "common/transport/transport.hpp"
#include "common/transport/zmq_socket.hpp"

namespace fulgur::transport {

struct MeshLink {
  enum class State { backoff, greeted, offered, up, lost };

  LinkId id = 0;
  bool dialed = false;
  State state = State::backoff;
  Peer peer;
  std::shared_ptr<SendFlow> flow;
  PartKind data_kind = PartKind::data;  ///< what the peer reads best
  std::unique_ptr<ShmLink> shm;  ///< carries the payload once up with Carrier::shm

  // Dialed links own a socket; a new one for every attempt, so that nothing sent to one incarnation
  // of the peer can reach the next.
  std::string endpoint;
  Carrier wanted = Carrier::automatic;
  std::unique_ptr<ZmqSocket> socket;
  std::unique_ptr<ZmqMonitor> monitor;
  bool socket_dirty = false;   ///< may have messages that its descriptor does not tell of
  bool monitor_dirty = false;
  bool connected = false;      ///< this attempt has reached somebody
  bool down_pending = false;   ///< on_link_down is queued; no attempt before it is delivered
  std::size_t key = 0;         ///< which of the mesh's keys the next attempt shows
  Nanoseconds backoff = 0;
  Nanoseconds due = 0;         ///< next attempt (backoff), or end of patience; 0: none
  std::string last_failure;    ///< logged once while it stays the same

  // Accepted links share the listening socket.
  std::string routing_id;
  int fd = -1;
};

}  // namespace fulgur::transport
