// SimTransport: the process's side of network.hpp.
#include <fmt/format.h>

#include <algorithm>

#include "common/base/assert.hpp"
#include "common/transport/event.hpp"
#include "tests/sim/network.hpp"

namespace fulgur::sim {
namespace {

constexpr Nanoseconds kRedialFirst = 10 * kMillisecond;  // as TransportOptions
constexpr Nanoseconds kRedialLast = kSecond;
constexpr Nanoseconds kHelloTimeout = 10 * kSecond;
constexpr Nanoseconds kVanishedNoticed = 15 * kSecond;

}  // namespace

class SimTransport::Bell final : public transport::Doorbell {
 public:
  explicit Bell(std::function<void()> wake) : wake_(std::move(wake)) {}
  void ring() override { wake_(); }
  void wait(Nanoseconds) override { FULGUR_ASSERT(false, "nobody sleeps in a simulation"); }

 private:
  std::function<void()> wake_;
};

SimTransport::SimTransport(Network& network, std::uint64_t order, transport::Identity identity,
                           std::string endpoint, const ProcessClock& clock,
                           std::function<void()> wake)
    : network_(network),
      order_(order),
      identity_(std::move(identity)),
      endpoint_(std::move(endpoint)),
      clock_(clock),
      bell_(std::make_unique<Bell>(std::move(wake))) {}

SimTransport::~SimTransport() {
  network_.transports_.erase(order_);
  World& world = network_.world_;
  for (auto& [id, link] : links_) {
    if (!link.connection || link.connection->broken) continue;
    Connection::End& mine = link.connection->ends[link.end];
    mine.owner = 0;
    mine.ended_at = world.now();
    Connection::Item last_word{Connection::Kind::down, {}, "peer closed", world.now()};
    if (death_ == Death::vanished) {
      world.after(kVanishedNoticed, [&network = network_, connection = link.connection] {
        network.break_connection(connection, "no heartbeats");
      });
    } else if (world.dice().chance(0.5)) {
      network_.transmit(link.connection, link.end, std::move(last_word));
    } else {
      network_.break_connection(link.connection, "peer closed");
    }
  }
  refuse_pending();
}

/// Who has dialed and was not answered yet is refused.
void SimTransport::refuse_pending() {
  for (const auto& [order, member] : network_.transports_) {
    for (const auto& [id, link] : member->links_) {
      if (!link.connection || link.end != 0 || link.connection->ends[1].owner != order_) continue;
      if (death_ != Death::vanished) network_.break_connection(link.connection, "connection refused");
    }
  }
}

transport::Doorbell& SimTransport::doorbell() { return *bell_; }

transport::Peer SimTransport::as_peer() const {
  return {identity_.kind, identity_.name, identity_.incarnation, transport::Carrier::inproc};
}

Result<transport::LinkId> SimTransport::connect(const std::string& endpoint, transport::Carrier) {
  if (!endpoint.starts_with("sim://")) {
    return error(Code::invalid_argument, "cannot connect to '{}'", endpoint);
  }
  const transport::LinkId id = next_link_++;
  links_[id].target = endpoint;
  dial(id);
  return id;
}

void SimTransport::dial(transport::LinkId id) {
  Link& link = links_.at(id);
  ++link.attempt;
  SimTransport* const peer = network_.listener(link.target);
  if (peer == nullptr || peer == this || network_.blocked(identity_.name, peer->identity_.name) ||
      network_.blocked(peer->identity_.name, identity_.name)) {
    return dial_later(id);
  }
  auto connection = std::make_shared<Connection>();
  connection->id = network_.next_connection_++;
  connection->ends[0].owner = order_;
  connection->ends[0].peer = as_peer();
  connection->ends[0].link = id;
  connection->ends[1].owner = peer->order_;
  connection->ends[1].peer = peer->as_peer();
  link.connection = connection;
  link.end = 0;
  network_.transmit(connection, 0, {Connection::Kind::hello, {}, {}, clock_.now()});
  network_.world_.at(clock_.now() + kHelloTimeout,
                     [this, alive = std::weak_ptr(alive_), id, attempt = link.attempt] {
                       if (!alive.expired()) give_up_unless_up(id, attempt);
                     });
}

void SimTransport::dial_later(transport::LinkId id) {
  Link& link = links_.at(id);
  link.connection.reset();
  link.backoff = std::clamp(link.backoff * 2, kRedialFirst, kRedialLast);
  network_.world_.at(clock_.now() + link.backoff,
                     [this, alive = std::weak_ptr(alive_), id, attempt = link.attempt] {
                       if (alive.expired()) return;
                       const auto found = links_.find(id);
                       if (found != links_.end() && found->second.attempt == attempt) dial(id);
                     });
}

void SimTransport::give_up_unless_up(transport::LinkId id, std::uint64_t attempt) {
  const auto found = links_.find(id);
  if (found == links_.end() || found->second.attempt != attempt || found->second.up) return;
  if (!found->second.connection) return;  // dial_later() is at it
  const ConnectionPtr connection = found->second.connection;
  connection->ends[0].owner = 0;  // nobody here hears of its end
  network_.break_connection(connection, "no hello in time");
  dial_later(id);
}

Status SimTransport::send(transport::LinkId id, wire::Frames frames) {
  FULGUR_RETURN_IF_ERROR(transport::check_frames(frames));
  const auto found = links_.find(id);
  if (found == links_.end() || !found->second.up) {
    return error(Code::unavailable, "link {} is down", id);
  }
  const Link& link = found->second;
  Connection::Way& way = link.connection->ways[link.end];
  const std::size_t bytes = transport::bytes_of(frames);
  if (way.waiting != 0 && (way.waiting >= network_.limits_.queue_messages ||
                           way.waiting_bytes + bytes > network_.limits_.queue_bytes)) {
    ++stats_.refused_busy;
    way.refused = true;
    return error(Code::resource_exhausted, "queue to {} is full", link.peer.name);
  }
  ++way.waiting;
  way.waiting_bytes += bytes;
  auto& longest = network_.counts_.queue_messages_max;
  longest = std::max(longest, way.waiting);
  ++stats_.messages_sent;
  stats_.bytes_sent += bytes;
  if (network_.tap) network_.tap(identity_, frames);
  network_.transmit(link.connection, link.end,
                    {Connection::Kind::data, std::move(frames), {}, clock_.now()});
  return Status::ok();
}

void SimTransport::close(transport::LinkId id) {
  const auto found = links_.find(id);
  if (found == links_.end()) return;
  const Link link = std::move(found->second);
  links_.erase(found);
  if (!link.connection || link.connection->broken) return;
  network_.transmit(link.connection, link.end,
                    {Connection::Kind::down, {}, "peer closed the link", clock_.now()});
  link.connection->ends[link.end].owner = 0;
}

void SimTransport::put(Mail mail) {
  inbox_.push_back(std::move(mail));
  bell_->ring();
}

std::size_t SimTransport::poll(transport::Handler& handler, std::size_t max_events) {
  std::size_t delivered = 0;
  for (; delivered < max_events && !inbox_.empty(); ++delivered) {
    Mail mail = std::move(inbox_.front());
    inbox_.pop_front();
    deliver(std::move(mail), handler);
  }
  return delivered;
}

void SimTransport::deliver(Mail mail, transport::Handler& handler) {
  network_.settle(*mail.connection, 1 - mail.end, mail.item);
  if (mail.item.kind == Connection::Kind::hello) return on_hello(mail, handler);
  const transport::LinkId id = mail.connection->ends[mail.end].link;
  const auto found = links_.find(id);
  if (found == links_.end() || found->second.connection != mail.connection) return;
  Link& link = found->second;
  switch (mail.item.kind) {
    case Connection::Kind::welcome:
      link.peer = mail.connection->ends[1].peer;
      link.up = true;
      link.backoff = 0;
      return handler.on_link_up(id, link.peer);
    case Connection::Kind::data:
      if (!link.up) return;  // it overtook the welcome
      ++stats_.messages_received;
      return handler.on_message(id, std::move(mail.item.frames));
    default:
      return lose(id, mail.item.why, handler);
  }
}

void SimTransport::on_hello(const Mail& mail, transport::Handler& handler) {
  if (mail.connection->broken) return;
  const transport::Peer peer = mail.connection->ends[0].peer;
  std::vector<transport::LinkId> half_open;
  for (const auto& [id, link] : links_) {
    if (!link.target.empty() || link.peer.name != peer.name) continue;
    if (link.peer.incarnation > peer.incarnation) {
      return network_.break_connection(mail.connection, "a newer incarnation is connected");
    }
    if (link.peer.incarnation < peer.incarnation) half_open.push_back(id);
  }
  for (const transport::LinkId id : half_open) lose(id, peer.name + " was restarted", handler);
  const transport::LinkId id = next_link_++;
  Link& link = links_[id];
  link.connection = mail.connection;
  link.end = 1;
  link.up = true;
  link.peer = peer;
  mail.connection->ends[1].link = id;
  network_.transmit(mail.connection, 1, {Connection::Kind::welcome, {}, {}, clock_.now()});
  handler.on_link_up(id, peer);
}

/// The link is down at this end. Dialed links try again under the same id.
void SimTransport::lose(transport::LinkId id, const std::string& why, transport::Handler& handler) {
  const auto found = links_.find(id);
  if (found == links_.end()) return;
  Link& link = found->second;
  const bool was_up = std::exchange(link.up, false);
  if (link.connection) {
    link.connection->ends[link.end].owner = 0;
    if (!link.connection->broken) network_.break_connection(link.connection, why);
  }
  if (link.target.empty()) {
    links_.erase(found);
  } else {
    dial_later(id);
  }
  if (was_up) handler.on_link_down(id, Status(Code::unavailable, why));
}

}  // namespace fulgur::sim
