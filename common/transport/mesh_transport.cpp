#include "common/transport/mesh_transport.hpp"

#include <sched.h>
#include <zmq.h>

#include <algorithm>
#include <limits>

#include "common/transport/make_transport.hpp"

namespace fulgur::transport {
namespace {

constexpr Nanoseconds kNever = std::numeric_limits<Nanoseconds>::max();
constexpr int kRefusedEvents =
    ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL | ZMQ_EVENT_HANDSHAKE_FAILED_AUTH;
constexpr int kListenerEvents = ZMQ_EVENT_ACCEPTED | ZMQ_EVENT_DISCONNECTED | kRefusedEvents;

// Tokens of the epoll set: link and which of its descriptors; link 0 is the listener.
constexpr std::uint64_t kSocketToken = 0;
constexpr std::uint64_t kMonitorToken = 1;
constexpr std::uint64_t kBellToken = 2;
constexpr std::uint64_t kGateToken = 3;
constexpr std::uint64_t token_of(LinkId id, std::uint64_t which) { return id * 4 + which; }

/// Puts `host` in the place of a wildcard address.
std::string advertised(const std::string& endpoint, const std::string& host) {
  constexpr std::string_view kWildcard = "tcp://0.0.0.0:";
  if (host.empty() || !endpoint.starts_with(kWildcard)) return endpoint;
  return "tcp://" + host + ":" + endpoint.substr(kWildcard.size());
}

}  // namespace

MeshTransport::MeshTransport(Identity identity, TransportOptions options)
    : identity_(std::move(identity)),
      options_(std::move(options)),
      host_(options_.allowed == Carrier::zmq ? std::string() : host_identity()),
      pool_(options_.limits.queue_bytes),
      bell_(*this, options_.spin),
      next_timer_(kNever) {}

MeshTransport::~MeshTransport() {
  for (auto& [id, link] : links_) {
    drop_shm(link, link.state == State::up);
    if (link.dialed) stop(link, link.state == State::up);
  }
  if (!listener_) return;
  listener_->set(ZMQ_LINGER, kLingerMs);
  if (gate_) bell_.unwatch(gate_->fd());
  bell_.unwatch(listener_monitor_->fd());
  bell_.unwatch(listener_->fd());
  listener_monitor_.reset();
}

Status MeshTransport::listen() {
  if (options_.listen.empty()) return Status::ok();
  if (!options_.curve.empty()) {
    gate_ = std::make_unique<ZapGate>(context_, options_.curve);
    bell_.watch(gate_->fd(), token_of(0, kGateToken));
    gate_->answer();  // ZeroMQ signals only what comes after a first look
  }
  listener_ = std::make_unique<ZmqSocket>(context_, ZMQ_ROUTER);
  configure(*listener_, options_, true, gate_ ? &options_.curve.front() : nullptr);
  listener_monitor_ = std::make_unique<ZmqMonitor>(context_, *listener_, kListenerEvents);
  bell_.watch(listener_->fd(), token_of(0, kSocketToken));
  bell_.watch(listener_monitor_->fd(), token_of(0, kMonitorToken));
  listener_dirty_ = listener_monitor_dirty_ = dirty_ = true;
  for (const std::string& endpoint : options_.listen) {
    if (zmq_bind(listener_->raw(), endpoint.c_str()) != 0) {
      const bool is_bad = errno == EINVAL || errno == EPROTONOSUPPORT || errno == ENOCOMPATPROTO;
      const Code code = is_bad ? Code::invalid_argument : Code::unavailable;
      return error(code, "cannot listen on '{}': {}", endpoint, zmq_strerror(errno));
    }
    if (endpoint_.empty())
      endpoint_ = advertised(listener_->last_endpoint(), options_.advertise_host);
  }
  return Status::ok();
}

Result<LinkId> MeshTransport::connect(const std::string& endpoint, Carrier carrier) {
  if (carrier == Carrier::inproc) {
    return error(Code::invalid_argument, "'{}' is not in this process", endpoint);
  }
  const LinkId id = next_link_++;
  MeshLink& link = links_[id];
  link.id = id;
  link.dialed = true;
  link.endpoint = endpoint;
  link.wanted = carrier == Carrier::automatic ? options_.allowed : carrier;
  link.backoff = options_.reconnect_first;
  if (Status started = start(link); !started) {
    stop(link, false);
    links_.erase(id);
    return started;
  }
  return id;
}

Status MeshTransport::send(LinkId id, wire::Frames frames) {
  FULGUR_RETURN_IF_ERROR(check_frames(frames));
  if (std::ranges::any_of(frames, &wire::is_device)) {
    return {Code::invalid_argument, "device memory needs a device transport"};
  }
  const auto found = links_.find(id);
  if (found == links_.end() || found->second.state != State::up) {
    return error(Code::unavailable, "link {} is down", id);
  }
  MeshLink& link = found->second;
  const std::size_t bytes = bytes_of(frames);
  if (link.shm) return send_shm(link, std::move(frames), bytes);
  const std::size_t waiting = link.flow->bytes.load();
  if (waiting != 0 && waiting + bytes > options_.limits.queue_bytes) {
    link.flow->refused.store(true);
    if (link.flow->bytes.load() != 0) {
      ++stats_.refused_busy;
      return error(Code::resource_exhausted, "queue to {} is full", link.peer.name);
    }
    link.flow->refused.store(false);  // all of it went out meanwhile
  }
  const Status sent = say(link, link.data_kind, frames);
  spoke_ = true;
  if (sent.is_ok()) {
    ++stats_.messages_sent;
    stats_.bytes_sent += bytes;
  } else if (sent.code() == Code::resource_exhausted) {
    ++stats_.refused_busy;
    return error(Code::resource_exhausted, "queue to {} is full", link.peer.name);
  }
  return sent;
}

Status MeshTransport::send_shm(MeshLink& link, wire::Frames frames, std::size_t bytes) {
  const Status sent = link.shm->send(std::move(frames), options_.limits);
  if (sent.is_ok()) {
    ++stats_.messages_sent;
    stats_.bytes_sent += bytes;
  } else if (sent.code() == Code::resource_exhausted) {
    ++stats_.refused_busy;
    return error(Code::resource_exhausted, "queue to {} is full", link.peer.name);
  } else {
    end_corrupt(link, sent);
  }
  return sent;
}

void MeshTransport::close(LinkId id) {
  const auto found = links_.find(id);
  if (found == links_.end()) return;
  MeshLink& link = found->second;
  drop_shm(link, link.state == State::up);
  if (link.dialed) {
    stop(link, link.state == State::up);
  } else if (link.state != State::lost) {
    refuse(link.routing_id, {Code::unavailable, identity_.name + " closed the link"});
    by_routing_id_.erase(link.routing_id);
  }
  links_.erase(found);
}

std::size_t MeshTransport::poll(Handler& handler, std::size_t max_events) {
  // What was sent lies with libzmq's thread, which may share this core: it goes out first, so that
  // the peer works while this thread asks its sockets for more.
  if (std::exchange(spoke_, false) && events_.empty()) sched_yield();
  if (clock_.now() >= next_timer_) run_timers();
  mark_ready();
  if (events_.size() < max_events) gather();
  return deliver_events(handler, max_events);
}

void MeshTransport::mark_ready() {
  for (const std::uint64_t token : bell_.ready()) {
    const LinkId id = token / 4;
    const bool is_socket = token % 4 == kSocketToken;
    if (token % 4 == kBellToken) {
      if (const auto found = links_.find(id); found != links_.end() && found->second.shm) {
        found->second.shm->segment().drain_bell();
      }
      continue;
    }
    if (token == token_of(0, kGateToken)) {
      gate_->answer();
      continue;
    }
    dirty_ = true;
    if (id == 0) {
      (is_socket ? listener_dirty_ : listener_monitor_dirty_) = true;
    } else if (const auto found = links_.find(id); found != links_.end()) {
      (is_socket ? found->second.socket_dirty : found->second.monitor_dirty) = true;
    }
  }
}

/// One message of each socket, a few of each ring: none starves the others, and no system call is
/// spent on finding out that a socket has no second message.
void MeshTransport::gather() {
  if (!shm_links_.empty()) gather_shm();
  if (!dirty_) return;
  dirty_ = false;
  if (listener_) gather_listener();
  for (auto& [id, link] : links_) {
    if (link.socket_dirty || link.monitor_dirty) gather_dialed(link);
    dirty_ = dirty_ || link.socket_dirty;
  }
  dirty_ = dirty_ || listener_dirty_;
}

/// A few messages of each link in turn, so that a busy one does not starve the others.
void MeshTransport::gather_shm() {
  const auto links = shm_links_;
  for (MeshLink* link : links) {
    if (!link->shm->has_work()) continue;
    const Status status =
        link->shm->pump(8, [&](wire::Frames frames) { receive(*link, std::move(frames)); });
    if (!status) end_corrupt(*link, status);
  }
}

void MeshTransport::end_corrupt(MeshLink& link, const Status& why) {
  ++stats_.malformed;
  if (link.dialed) return fail(link, why);
  refuse(link.routing_id, why);
  lose(link, why);
}

bool MeshTransport::shm_has_work() const {
  return std::ranges::any_of(shm_links_,
                             [](const MeshLink* link) { return link->shm->has_work(); });
}

void MeshTransport::set_asleep(bool asleep) {
  for (MeshLink* link : shm_links_) link->shm->set_asleep(asleep);
}

void MeshTransport::gather_dialed(MeshLink& link) {
  bool lost = false;
  std::uint32_t protocol_error = 0;
  if (std::exchange(link.monitor_dirty, false)) {
    for (ZmqMonitor::Event event; link.monitor->receive(event);) {
      if (event.what == ZMQ_EVENT_CONNECTED) {
        link.connected = true;
        schedule(link, clock_.now() + options_.hello_timeout);
        continue;
      }
      lost = true;
      if ((event.what & kRefusedEvents) != 0) protocol_error = event.value;
    }
  }
  // What a peer sent before it went is delivered before its end.
  link.socket_dirty = true;
  ZmqMessage message;
  do {
    if (!link.socket->receive(message)) {
      link.socket_dirty = false;
      break;
    }
    on_dialed(link, message);
  } while (lost && link.socket);
  if (lost && link.socket) fail(link, why_lost(link, protocol_error));
}

void MeshTransport::gather_listener() {
  if (listener_monitor_dirty_) read_listener_monitor();
  if (!listener_dirty_ && lost_connections_.empty()) return;
  listener_dirty_ = true;
  ZmqMessage message;
  if (listener_->receive(message)) return on_accepted(message);
  listener_dirty_ = false;
  for (const int fd : std::exchange(lost_connections_, {})) lose_connection(fd);
}

/// libzmq reports a connection's end before its descriptor can be reused, and a connection before
/// any message of it. Reading the monitor before each Hello therefore makes every descriptor in
/// links_ and lost_connections_ mean the connection that the events so far speak of.
void MeshTransport::read_listener_monitor() {
  listener_monitor_dirty_ = false;
  for (ZmqMonitor::Event event; listener_monitor_->receive(event);) {
    if ((event.what & kRefusedEvents) != 0) {
      ++stats_.refused_peers;
    } else if (event.what == ZMQ_EVENT_DISCONNECTED) {
      lost_connections_.push_back(event.fd);
    } else if (std::erase(lost_connections_, event.fd) != 0) {
      lose_connection(event.fd);
    }
  }
}

std::size_t MeshTransport::deliver_events(Handler& handler, std::size_t most) {
  std::size_t delivered = 0;
  while (delivered < most && !events_.empty()) {
    Event event = std::move(events_.front());
    events_.pop_front();
    const auto found = links_.find(event.link);
    if (found == links_.end()) continue;
    if (std::holds_alternative<Status>(event.what)) {
      found->second.down_pending = false;
      if (!found->second.dialed) links_.erase(found);
    }
    deliver(std::move(event), handler);
    ++delivered;
  }
  return delivered;
}

void MeshTransport::receive(MeshLink& link, wire::Frames frames) {
  ++stats_.messages_received;
  stats_.bytes_received += bytes_of(frames);
  events_.push_back({link.id, std::move(frames)});
}

bool MeshTransport::has_work() { return dirty_ || !events_.empty() || shm_has_work(); }

Nanoseconds MeshTransport::until_timer() const {
  return next_timer_ == kNever ? kNever : std::max<Nanoseconds>(0, next_timer_ - clock_.now());
}

void MeshTransport::schedule(MeshLink& link, Nanoseconds due) {
  link.due = due;
  if (due != 0) next_timer_ = std::min(next_timer_, due);
}

Result<std::unique_ptr<Transport>> make_transport(const Identity& identity,
                                                  const TransportOptions& options) {
  auto transport = std::make_unique<MeshTransport>(identity, options);
  FULGUR_RETURN_IF_ERROR(transport->listen());
  return std::unique_ptr<Transport>(std::move(transport));
}

}  // namespace fulgur::transport
