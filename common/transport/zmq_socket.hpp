// Thin ownership over libzmq's C API: context, socket, received parts as Frames, zero-copy sends.
// Used by one thread; only the release of sent memory happens on libzmq's own thread.
#pragma once

#include <atomic>
#include <cstddef>
#include <functional>
#include <span>
#include <string>

#include "common/base/buffer_pool.hpp"
#include "common/base/status.hpp"
#include "common/transport/options.hpp"
#include "common/transport/packed_part.hpp"
#include "common/wire/messages.hpp"

namespace fulgur::transport {

/// What libzmq holds of one link's sent memory. Shared with libzmq's thread.
struct SendFlow {
  explicit SendFlow(Doorbell& bell) : bell(bell) {}
  std::atomic<std::size_t> bytes{0};
  std::atomic<bool> refused{false};  ///< a send found no room: ring when there is some
  Doorbell& bell;                    ///< outlives the context
};

class ZmqContext {
 public:
  ZmqContext();
  ~ZmqContext();
  ZmqContext(const ZmqContext&) = delete;
  ZmqContext& operator=(const ZmqContext&) = delete;
  void* raw() const { return context_; }
  BufferPool& pool() { return pool_; }

 private:
  void* context_;
  BufferPool pool_{4U << 20};  ///< packed parts on their way out
};

/// One received multi-part message.
struct ZmqMessage {
  std::string routing_id;  ///< of the sender; ROUTER sockets only
  int fd = -1;             ///< of the connection it came by
  bool malformed = false;  ///< not ours, or too many parts: `kind` and `frames` mean nothing
  PartKind kind = PartKind::data;  ///< never packed: that is data
  wire::Frames frames;
};

class ZmqSocket {
 public:
  /// `type` is ZMQ_ROUTER, ZMQ_DEALER, ZMQ_PAIR or ZMQ_REP.
  ZmqSocket(ZmqContext& context, int type);
  ~ZmqSocket();
  ZmqSocket(const ZmqSocket&) = delete;
  ZmqSocket& operator=(const ZmqSocket&) = delete;

  void* raw() const { return socket_; }
  int fd() const { return fd_; }
  void set(int option, int value);
  void set(int option, const std::string& value);
  void set(int option, std::int64_t value);
  std::string last_endpoint() const;

  /// Sends [routing id,] kind, frames without blocking. Frames of 1 KiB and more that are parts of
  /// their own are referenced until sent, others copied; both are counted in `flow` from 1 KiB on.
  /// resource_exhausted when the queue is full, unavailable when the peer is gone.
  Status send(const std::string& routing_id, PartKind kind, const wire::Frames& frames,
              const std::shared_ptr<SendFlow>& flow);

  /// False when nothing waits.
  bool receive(ZmqMessage& message);

 private:
  int send_first(PartKind kind, std::span<const wire::Frame> packed, int flags,
                 const std::shared_ptr<SendFlow>& flow);

  BufferPool& pool_;
  bool is_router_;
  void* socket_;
  int fd_ = -1;
};

/// Connection events of a socket. Create before bind or connect, destroy before the socket.
class ZmqMonitor {
 public:
  struct Event {
    int what = 0;  ///< ZMQ_EVENT_*
    int fd = -1;   ///< of the connection concerned, for ZMQ_EVENT_DISCONNECTED
    std::uint32_t value = 0;  ///< what else it means: see zmq_socket_monitor(3)
  };

  ZmqMonitor(ZmqContext& context, ZmqSocket& socket, int events);
  ~ZmqMonitor();
  int fd() const { return pair_.fd(); }
  bool receive(Event& event);

 private:
  ZmqSocket& watched_;
  ZmqSocket pair_;
};

/// Options every mesh socket has: bounds, heartbeats, no lingering, and the key it listens or
/// connects with; null: none.
void configure(ZmqSocket& socket, const TransportOptions& options, bool listens,
               const CurveKey* key);

}  // namespace fulgur::transport
