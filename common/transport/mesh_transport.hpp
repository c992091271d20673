// The Transport behind make_transport(). One ROUTER listens, one DEALER a connect(); the reactor
// thread owns all of them and reads shared-memory rings in poll(), so a message crosses no thread
// but ZeroMQ's own. mesh_transport.cpp is the Transport interface, mesh_handshake.cpp the life of
// links.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <string>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "common/transport/event.hpp"
#include "common/transport/mesh_bell.hpp"
#include "common/transport/mesh_link.hpp"
#include "common/transport/options.hpp"
#include "common/transport/zap_gate.hpp"
#include "common/transport/zmq_socket.hpp"

namespace fulgur::transport {

/// How long a closed link or transport may take to send what it queued.
inline constexpr int kLingerMs = 100;

class MeshTransport final : public Transport, private Sleeper {
 public:
  MeshTransport(Identity identity, TransportOptions options);
  ~MeshTransport() override;

  /// Binds options.listen. Call once, before anything else.
  Status listen();

  std::string endpoint() const override { return endpoint_; }
  Result<LinkId> connect(const std::string& endpoint, Carrier carrier) override;
  Status send(LinkId id, wire::Frames frames) override;
  void close(LinkId id) override;
  std::size_t poll(Handler& handler, std::size_t max_events) override;
  Doorbell& doorbell() override { return bell_; }
  Stats stats() const override { return stats_; }

 private:
  using State = MeshLink::State;

  // Sleeper
  bool has_work() override;
  bool may_spin() const override { return !links_.empty(); }
  void set_asleep(bool asleep) override;
  Nanoseconds until_timer() const override;

  // Gathering: what arrived becomes events_.
  void mark_ready();
  void gather();
  void gather_dialed(MeshLink& link);
  void gather_listener();
  void gather_shm();
  void end_corrupt(MeshLink& link, const Status& why);
  bool shm_has_work() const;
  void read_listener_monitor();
  void run_timers();
  std::size_t deliver_events(Handler& handler, std::size_t most);

  // Handshake and life cycle
  Status start(MeshLink& link);
  void stop(MeshLink& link, bool linger);
  Status why_lost(const MeshLink& link, std::uint32_t protocol_error) const;
  void fail(MeshLink& link, const Status& why);
  void lose(MeshLink& link, const Status& why);
  void bring_up(MeshLink& link, Carrier carrier);
  void on_dialed(MeshLink& link, ZmqMessage& message);
  void on_accepted(ZmqMessage& message);
  void greet_accepted(ZmqMessage& message);
  void on_dialed_hello(MeshLink& link, const wire::Hello& hello);
  void on_offer(MeshLink& link, const wire::Hello& hello);
  void offer_shm(MeshLink& link);
  void drop_shm(MeshLink& link, bool linger);
  void take_rest(MeshLink& link);
  bool make_room_for(const wire::Hello& hello, const std::string& routing_id);
  void lose_connection(int fd);
  Status send_shm(MeshLink& link, wire::Frames frames, std::size_t bytes);
  Status say(MeshLink& link, PartKind kind, const wire::Frames& frames);
  void refuse(const std::string& routing_id, const Status& why);
  wire::Frames hello(const std::string& host, const std::string& offer, bool accepted) const;
  std::string host_for(Carrier allowed) const;

  ZmqSocket& socket_of(MeshLink& link) { return link.dialed ? *link.socket : *listener_; }
  void receive(MeshLink& link, wire::Frames frames);
  void schedule(MeshLink& link, Nanoseconds due);

  const Identity identity_;
  const TransportOptions options_;
  const std::string host_;  ///< who can share memory with this process
  RealClock clock_;
  BufferPool pool_;
  MeshBell bell_;  // before the context: libzmq's thread may ring until it ends
  ZmqContext context_;
  std::unique_ptr<ZapGate> gate_;  ///< where there are keys
  std::unique_ptr<ZmqSocket> listener_;
  std::unique_ptr<ZmqMonitor> listener_monitor_;
  std::string endpoint_;
  bool listener_dirty_ = false;
  bool listener_monitor_dirty_ = false;
  std::unordered_set<int> greeted_;    ///< connections of the listener that said Hello
  std::vector<int> lost_connections_;  ///< of the listener; their last messages are read first

  std::map<LinkId, MeshLink> links_;
  std::unordered_map<std::string, LinkId> by_routing_id_;
  std::vector<MeshLink*> shm_links_;  ///< those up with Carrier::shm
  std::deque<Event> events_;
  LinkId next_link_ = 1;
  Nanoseconds next_timer_;
  bool dirty_ = false;  ///< some socket may have more to read
  bool spoke_ = false;  ///< something was sent by ZeroMQ since the last poll()
  Stats stats_;
};

}  // namespace fulgur::transport
