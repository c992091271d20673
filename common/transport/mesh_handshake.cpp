// The life of a mesh link: attempts, Hello both ways, loss. See docs/protocol.md.
#include <fmt/format.h>
#include <zmq.h>

#include <limits>

#include "common/base/log.hpp"
#include "common/transport/mesh_transport.hpp"
#include "common/wire/codec.hpp"

namespace fulgur::transport {
namespace {

constexpr int kDialedEvents =
    ZMQ_EVENT_CONNECTED | ZMQ_EVENT_DISCONNECTED | ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL |
    ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL | ZMQ_EVENT_HANDSHAKE_FAILED_AUTH;

Result<wire::Hello> read_hello(wire::Frames frames) {
  FULGUR_ASSIGN_OR_RETURN(wire::Message message, wire::decode(std::move(frames)));
  if (auto* hello = std::get_if<wire::Hello>(&message.body)) return std::move(*hello);
  return error(Code::data_loss, "expected a hello, got {}", wire::body_name(message.body));
}

/// The reason a Bye carries: plain text, so that every protocol version understands it. In quotes, for
/// "this process" in it is the one that refuses.
std::string bye_text(const wire::Frames& frames) {
  if (frames.empty()) return "refused, no reason given";
  const wire::Frame& text = frames.front();
  const std::size_t size = std::min<std::size_t>(text.size, 256);
  return fmt::format("refused with \"{}\"",
                     std::string_view(reinterpret_cast<const char*>(text.data), size));
}

Peer peer_of(const wire::Hello& hello) {
  return {hello.kind, hello.name, hello.incarnation, Carrier::zmq, hello.gpu};
}

PartKind data_kind_for(const wire::Hello& hello) {
  return hello.reads_packed ? PartKind::packed : PartKind::data;
}

}  // namespace

wire::Frames MeshTransport::hello(const std::string& host, const std::string& offer,
                                  bool accepted) const {
  wire::Hello body;
  body.kind = identity_.kind;
  body.name = identity_.name;
  body.incarnation = identity_.incarnation;
  body.host = host;
  body.shm_offer = offer;
  body.shm_accepted = accepted;
  body.gpu = identity_.gpu;
  body.reads_packed = true;
  wire::Message message;
  message.sender = identity_.name;
  message.body = std::move(body);
  return wire::encode(message);
}

/// What a Hello says about sharing memory: nothing where the carrier forbids it.
std::string MeshTransport::host_for(Carrier allowed) const {
  return allowed == Carrier::zmq ? std::string() : host_;
}

/// One attempt: a fresh socket that keeps trying to reach the endpoint, with our Hello queued.
Status MeshTransport::start(MeshLink& link) {
  link.socket = std::make_unique<ZmqSocket>(context_, ZMQ_DEALER);
  link.flow = std::make_shared<SendFlow>(bell_);
  const bool has_keys = !options_.curve.empty();
  configure(*link.socket, options_, false, has_keys ? &options_.curve[link.key] : nullptr);
  link.monitor = std::make_unique<ZmqMonitor>(context_, *link.socket, kDialedEvents);
  bell_.watch(link.socket->fd(), link.id * 4);
  bell_.watch(link.monitor->fd(), link.id * 4 + 1);
  // ZeroMQ signals only what arrives after a first look found nothing.
  link.socket_dirty = link.monitor_dirty = dirty_ = true;
  link.state = State::greeted;
  link.connected = false;
  schedule(link, clock_.now() + options_.hello_timeout);
  if (zmq_connect(link.socket->raw(), link.endpoint.c_str()) != 0) {
    return error(Code::invalid_argument, "cannot connect to '{}': {}", link.endpoint,
                 zmq_strerror(errno));
  }
  return say(link, PartKind::hello, hello(host_for(link.wanted), {}, false));
}

void MeshTransport::stop(MeshLink& link, bool linger) {
  if (!link.socket) return;
  bell_.unwatch(link.monitor->fd());
  bell_.unwatch(link.socket->fd());
  link.monitor.reset();
  if (linger) link.socket->set(ZMQ_LINGER, kLingerMs);
  link.socket.reset();
  link.socket_dirty = link.monitor_dirty = false;
}

Status MeshTransport::why_lost(const MeshLink& link, std::uint32_t protocol_error) const {
  if (link.state == State::up) return {Code::unavailable, "the connection was lost"};
  if (protocol_error == ZMQ_PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH) {
    return {Code::unavailable, options_.curve.empty()
                                   ? "the peer demands a key (--curve-key-file)"
                                   : "the peer has no key (--curve-key-file)"};
  }
  return {Code::unavailable, options_.curve.empty()
                                 ? "the connection was lost in the handshake; does the peer "
                                   "demand a key (--curve-key-file)?"
                                 : "the connection was lost in the handshake; other keys?"};
}

/// Ends an attempt or an up link of ours; the next attempt follows after the back-off.
void MeshTransport::fail(MeshLink& link, const Status& why) {
  take_rest(link);
  // A peer that has another key first may have this one too, or another of ours.
  if (link.state != State::up && !options_.curve.empty()) {
    link.key = (link.key + 1) % options_.curve.size();
  }
  if (link.state == State::up) {
    link.down_pending = true;
    events_.push_back({link.id, why});
    link.last_failure.clear();
  } else if (std::exchange(link.last_failure, why.message()) != why.message()) {
    log::warn("connecting to {}: {}", link.endpoint, why.message());
  }
  stop(link, false);
  link.state = State::backoff;
  schedule(link, clock_.now() + link.backoff);
  link.backoff = std::min(2 * link.backoff, options_.reconnect_last);
}

/// An accepted link ended. The caller owns no iterator into links_.
void MeshTransport::lose(MeshLink& link, const Status& why) {
  take_rest(link);
  by_routing_id_.erase(link.routing_id);
  const bool was_up = std::exchange(link.state, State::lost) == State::up;
  schedule(link, 0);
  if (was_up) {
    events_.push_back({link.id, why});
  } else {
    links_.erase(link.id);
  }
}

void MeshTransport::bring_up(MeshLink& link, Carrier carrier) {
  link.state = State::up;
  link.peer.carrier = carrier;
  link.backoff = options_.reconnect_first;
  link.last_failure.clear();
  schedule(link, 0);
  events_.push_back({link.id, link.peer});
  if (carrier != Carrier::shm) return;
  shm_links_.push_back(&link);
  bell_.watch(link.shm->segment().own_bell(), link.id * 4 + 2);
}

Status MeshTransport::say(MeshLink& link, PartKind kind, const wire::Frames& frames) {
  // Sending may swallow the wake-up for what arrived meanwhile.
  (link.dialed ? link.socket_dirty : listener_dirty_) = true;
  dirty_ = true;
  return socket_of(link).send(link.routing_id, kind, frames, link.flow);
}

/// Tells a peer of the listener why it is not, or no longer, welcome.
void MeshTransport::refuse(const std::string& routing_id, const Status& why) {
  const auto text = std::make_shared<const std::string>(why.message());
  const wire::Frame frame{text, reinterpret_cast<const std::byte*>(text->data()), text->size()};
  listener_dirty_ = dirty_ = true;
  // A peer that cannot even take a Bye is gone or about to be.
  (void)listener_->send(routing_id, PartKind::bye, {frame}, std::make_shared<SendFlow>(bell_));
}

void MeshTransport::on_dialed(MeshLink& link, ZmqMessage& message) {
  if (message.malformed) {
    ++stats_.malformed;
  } else if (message.kind == PartKind::bye) {
    fail(link, {Code::unavailable, bye_text(message.frames)});
  } else if (message.kind == PartKind::data && link.state == State::up && !link.shm) {
    receive(link, std::move(message.frames));
  } else if (message.kind == PartKind::hello &&
             (link.state == State::greeted || link.state == State::offered)) {
    const auto hello = read_hello(std::move(message.frames));
    if (!hello) {
      ++stats_.malformed;
      return fail(link, hello.status());
    }
    on_dialed_hello(link, *hello);
  } else {
    ++stats_.malformed;
  }
}

/// The first Hello of the peer ends the handshake or leads to an offer, the second answers it.
void MeshTransport::on_dialed_hello(MeshLink& link, const wire::Hello& hello) {
  const bool answers_offer = link.state == State::offered;
  link.peer = peer_of(hello);
  link.data_kind = data_kind_for(hello);
  const std::string host = host_for(link.wanted);
  if (!answers_offer && !host.empty() && hello.host == host) return offer_shm(link);
  if (answers_offer && hello.shm_accepted && link.shm) {
    link.shm->segment().unlink();
    return bring_up(link, Carrier::shm);
  }
  link.shm.reset();
  if (link.wanted == Carrier::shm) {
    return fail(link, error(Code::failed_precondition,
                            "{} does not share memory with this process", hello.name));
  }
  bring_up(link, Carrier::zmq);
}

/// Both ends know that an offer is due; an empty one says that there was no memory for it.
void MeshTransport::offer_shm(MeshLink& link) {
  std::string name;
  if (auto segment = ShmSegment::create(options_.ring_bytes)) {
    name = (*segment)->name();
    link.shm = std::make_unique<ShmLink>(std::move(segment).value(), true, pool_);
  } else {
    log::warn("link to {} goes over ZeroMQ: {}", link.peer.name, segment.status().message());
  }
  link.state = State::offered;
  schedule(link, clock_.now() + options_.hello_timeout);
  const Status said = say(link, PartKind::hello, hello(host_for(link.wanted), name, false));
  if (!said) fail(link, said);
}

/// Accepting side: the dialer's second Hello.
void MeshTransport::on_offer(MeshLink& link, const wire::Hello& hello) {
  if (!hello.shm_offer.empty()) {
    if (auto segment = ShmSegment::open(hello.shm_offer)) {
      link.shm = std::make_unique<ShmLink>(std::move(segment).value(), false, pool_);
    } else {
      log::warn("link to {} goes over ZeroMQ: {}", link.peer.name, segment.status().message());
    }
  }
  const bool accepted = link.shm != nullptr;
  const Status said =
      say(link, PartKind::hello, this->hello(host_for(options_.allowed), {}, accepted));
  if (!said) return lose(link, said);
  bring_up(link, accepted ? Carrier::shm : Carrier::zmq);
}

void MeshTransport::drop_shm(MeshLink& link, bool linger) {
  if (!link.shm) return;
  if (std::erase(shm_links_, &link) != 0) bell_.unwatch(link.shm->segment().own_bell());
  if (linger) link.shm->flush(kLingerMs * kMillisecond);
  link.shm.reset();
}

/// What a peer wrote into the ring before it went is delivered before its end.
void MeshTransport::take_rest(MeshLink& link) {
  if (link.state == State::up && link.shm) {
    // A corrupt ring has no rest; why the link ended is known already. A full ring of the smallest
    // messages is the most there can be, unless the peer still writes.
    const std::size_t most = options_.ring_bytes / 24;
    (void)link.shm->pump(most, [&](wire::Frames frames) { receive(link, std::move(frames)); });
  }
  drop_shm(link, false);
}

void MeshTransport::on_accepted(ZmqMessage& message) {
  const auto found = by_routing_id_.find(message.routing_id);
  if (message.malformed || (found == by_routing_id_.end() && message.kind != PartKind::hello)) {
    ++stats_.malformed;
    return;
  }
  if (found == by_routing_id_.end()) return greet_accepted(message);
  MeshLink& link = links_.at(found->second);
  if (message.kind == PartKind::data && link.state == State::up && !link.shm) {
    receive(link, std::move(message.frames));
  } else if (message.kind == PartKind::bye) {
    lose(link, {Code::unavailable, bye_text(message.frames)});
  } else if (message.kind == PartKind::hello && link.state == State::offered) {
    const auto hello = read_hello(std::move(message.frames));
    if (hello) return on_offer(link, *hello);
    ++stats_.malformed;
    lose(link, hello.status());
  } else {
    ++stats_.malformed;
  }
}

void MeshTransport::greet_accepted(ZmqMessage& message) {
  read_listener_monitor();
  greeted_.insert(message.fd);
  const auto hello = read_hello(std::move(message.frames));
  if (!hello) {
    ++stats_.malformed;
    return refuse(message.routing_id, hello.status());
  }
  if (!make_room_for(*hello, message.routing_id)) return;
  MeshLink link;
  link.id = next_link_++;
  link.peer = peer_of(*hello);
  link.data_kind = data_kind_for(*hello);
  link.routing_id = message.routing_id;
  link.fd = message.fd;
  link.flow = std::make_shared<SendFlow>(bell_);
  const std::string host = host_for(options_.allowed);
  const bool shares = !host.empty() && hello->host == host;
  if (!shares && options_.allowed == Carrier::shm) {
    return refuse(message.routing_id, error(Code::failed_precondition,
                                            "{} takes shared memory only", identity_.name));
  }
  if (!say(link, PartKind::hello, this->hello(host, {}, false))) return;  // gone already
  by_routing_id_[link.routing_id] = link.id;
  MeshLink& kept = links_[link.id] = std::move(link);
  if (!shares) return bring_up(kept, Carrier::zmq);
  kept.state = State::offered;
  schedule(kept, clock_.now() + options_.hello_timeout);
}

/// Ends the accepted links of older incarnations of the process that says this Hello: mostly, their
/// connections are half-open. One that lives hears why; it tries again, and is welcome once the newer
/// one has gone. False when the newcomer is the older one.
bool MeshTransport::make_room_for(const wire::Hello& hello, const std::string& routing_id) {
  std::vector<LinkId> dead;
  for (const auto& [id, link] : links_) {
    if (link.dialed || link.state == State::lost || link.peer.name != hello.name) continue;
    if (link.peer.incarnation > hello.incarnation) {
      refuse(routing_id, error(Code::failed_precondition,
                               "a newer incarnation of {} is connected", hello.name));
      return false;
    }
    if (link.peer.incarnation < hello.incarnation) dead.push_back(id);
  }
  const Status replaced = error(Code::unavailable, "{} was started again", hello.name);
  for (const LinkId id : dead) {
    refuse(links_.at(id).routing_id, replaced);
    lose(links_.at(id), replaced);
  }
  return true;
}

void MeshTransport::lose_connection(int fd) {
  // It never said a Hello of ours: a stranger, or something that is no ZMTP at all.
  if (greeted_.erase(fd) == 0) ++stats_.malformed;
  for (auto& [id, link] : links_) {
    if (link.dialed || link.state == State::lost || link.fd != fd) continue;
    return lose(link, {Code::unavailable, "the connection was lost"});
  }
}

void MeshTransport::run_timers() {
  const Nanoseconds now = clock_.now();
  next_timer_ = std::numeric_limits<Nanoseconds>::max();
  std::vector<LinkId> silent;
  for (auto& [id, link] : links_) {
    if (link.due == 0) continue;
    if (link.due > now || link.down_pending) {
      schedule(link, std::max(link.due, now + kMillisecond));
    } else if (link.state == State::backoff) {
      if (Status started = start(link); !started) fail(link, started);
    } else {
      silent.push_back(id);
    }
  }
  const Status mute{Code::deadline_exceeded, "the peer says no hello"};
  const Status absent{Code::unavailable, "nobody answers (does it run, has its name an address?)"};
  for (const LinkId id : silent) {
    MeshLink& link = links_.at(id);
    const Status& why = link.dialed && !link.connected ? absent : mute;
    link.dialed ? fail(link, why) : lose(link, why);
  }
}

}  // namespace fulgur::transport
