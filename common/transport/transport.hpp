// How processes of the mesh exchange messages: one interface, implemented in-process, over ZeroMQ
// (ipc://, tcp://) and over shared memory between processes of one host. A Link is a two-way,
// ordered, bounded channel to one peer; losing it is an event, never an exception.
//
// Thread contract: one thread (the reactor) calls every method and receives every event from
// poll(). Transports may own threads inside; Doorbell is how those wake the reactor.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "common/base/clock.hpp"
#include "common/base/status.hpp"
#include "common/wire/messages.hpp"

namespace fulgur::transport {

/// Names one link of this process; never reused. 0 is no link.
using LinkId = std::uint64_t;

/// Which carrier a link's payload uses. automatic: shared memory when both ends are on one host and
/// allow it, else ZeroMQ.
enum class Carrier : std::uint8_t { automatic = 0, zmq = 1, shm = 2, inproc = 3 };

/// What moves tensors in device memory between two processes with a GPU each: copies into a ring in
/// the peer's memory (one host), NCCL, or nothing: they are staged through host memory.
enum class DeviceCarrier : std::uint8_t { none = 0, peer = 1, nccl = 2 };

constexpr std::string_view to_string(DeviceCarrier carrier) {
  switch (carrier) {
    case DeviceCarrier::none: return "none";
    case DeviceCarrier::peer: return "peer";
    case DeviceCarrier::nccl: return "nccl";
  }
  return "unknown";
}

/// Who is at the other end, from its Hello.
struct Peer {
  wire::ServiceKind kind = wire::ServiceKind::tool;
  std::string name;
  std::uint64_t incarnation = 0;
  Carrier carrier = Carrier::zmq;
  std::string gpu = {};  ///< what its GPU layer says of itself; empty: no GPU
  DeviceCarrier device = DeviceCarrier::none;
};

/// Wakes one thread that waits for work. ring() may be called from any thread or, where the
/// implementation lives in shared memory, from any process.
class Doorbell {
 public:
  virtual ~Doorbell() = default;
  virtual void ring() = 0;
  /// Returns when rung since the last wait returned, or after `timeout`.
  virtual void wait(Nanoseconds timeout) = 0;
};

/// Receives events inside poll(). Must not call poll() again; may call everything else.
class Handler {
 public:
  virtual ~Handler() = default;
  /// The peer said Hello; messages may be sent. Called for links in both directions.
  virtual void on_link_up(LinkId link, const Peer& peer) = 0;
  /// The link is gone: peer closed, died, or said Hello with another incarnation. A link that
  /// connect() made keeps trying and comes up again under the same id.
  virtual void on_link_down(LinkId link, const Status& why) = 0;
  virtual void on_message(LinkId link, wire::Frames frames) = 0;
};

struct Stats {
  std::uint64_t messages_sent = 0;
  std::uint64_t messages_received = 0;
  std::uint64_t bytes_sent = 0;
  std::uint64_t bytes_received = 0;
  std::uint64_t malformed = 0;  ///< frames dropped before they reached a Handler
  std::uint64_t refused_busy = 0;
  std::uint64_t refused_peers = 0;  ///< connections without a key of this mesh, or without ZeroMQ
};

class Transport {
 public:
  virtual ~Transport() = default;

  /// Where peers can connect to this process, e.g. "tcp://127.0.0.1:41234"; empty if it only
  /// connects.
  virtual std::string endpoint() const = 0;

  /// Starts connecting; on_link_up follows when the peer answers, however long that takes.
  virtual Result<LinkId> connect(const std::string& endpoint, Carrier carrier) = 0;

  /// Queues one message. resource_exhausted when the link's bounded queue is full, unavailable when
  /// the link is down. Ownership of the frames is shared until they are sent.
  virtual Status send(LinkId link, wire::Frames frames) = 0;

  /// Forgets a link; no further events for it.
  virtual void close(LinkId link) = 0;

  /// Delivers waiting events; returns how many. Bounded by `max_events`.
  virtual std::size_t poll(Handler& handler, std::size_t max_events) = 0;

  virtual Doorbell& doorbell() = 0;
  virtual Stats stats() const = 0;
};

/// Who this process is, said in every Hello.
struct Identity {
  wire::ServiceKind kind = wire::ServiceKind::tool;
  std::string name;
  std::uint64_t incarnation = 0;
  std::string gpu = {};  ///< GpuApi::identity(); empty: no GPU
};

}  // namespace fulgur::transport
