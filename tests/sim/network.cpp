#include "tests/sim/network.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "common/base/assert.hpp"
#include "common/transport/event.hpp"
#include "common/wire/codec.hpp"

namespace fulgur::sim {
namespace {

constexpr Nanoseconds kHeartbeatsMissed = 15 * kSecond;  // as TransportOptions: three of 5 s

std::uint64_t hash_of(const wire::Frame& frame) {
  std::uint64_t hash = frame.size;
  for (std::size_t at = 0; at + 8 <= frame.size; at += 8) {
    std::uint64_t word = 0;
    std::memcpy(&word, frame.data + at, sizeof word);
    hash = mix64(hash ^ word);
  }
  return hash;
}

std::string describe(const Connection::Item& item) {
  switch (item.kind) {
    case Connection::Kind::hello: return "hello";
    case Connection::Kind::welcome: return "welcome";
    case Connection::Kind::down: return "down: " + item.why;
    case Connection::Kind::data: break;
  }
  static constexpr const char* kNames[] = {
      "Dispatch", "Combine",   "Nack",    "Submit",  "Tokens",   "Done",   "Cancel", "Register", "Ack",
      "Heartbeat", "Placement", "Prepare", "Prepared", "Retire", "Switched", "Report", "Drain", "Hello"};
  const auto decoded = wire::decode(item.frames);
  const std::size_t bytes = transport::bytes_of(item.frames);
  if (!decoded.is_ok()) return fmt::format("damaged {} B", bytes);
  const std::size_t kind = decoded->body.index();
  return fmt::format("{} {} B", kind < std::size(kNames) ? kNames[kind] : "later kind", bytes);
}

}  // namespace

std::unique_ptr<SimTransport> Network::make(transport::Identity identity, std::string endpoint,
                                            const ProcessClock& clock, std::function<void()> wake) {
  const std::uint64_t order = next_transport_++;
  std::unique_ptr<SimTransport> made(new SimTransport(*this, order, std::move(identity),
                                                      std::move(endpoint), clock, std::move(wake)));
  transports_[order] = made.get();
  return made;
}

bool Network::blocked(const std::string& from, const std::string& to) const {
  const auto found = paths_.find({from, to});
  return found != paths_.end() && found->second.blocked_until > world_.now();
}

Nanoseconds Network::latency(const std::string& from, const std::string& to) {
  const Nanoseconds base =
      conditions.latency_min + world_.dice().around(conditions.latency_mean);
  const auto found = paths_.find({from, to});
  if (found == paths_.end() || found->second.slow_until <= world_.now()) return base;
  return static_cast<Nanoseconds>(static_cast<double>(base) * found->second.slow_factor);
}

/// Where two processes listen on one endpoint (two orchestrators behind one name), chance decides.
SimTransport* Network::listener(const std::string& endpoint) {
  std::vector<SimTransport*> listening;
  for (const auto& [order, candidate] : transports_) {
    if (candidate->endpoint_ == endpoint) listening.push_back(candidate);
  }
  if (listening.empty()) return nullptr;
  return listening.size() == 1 ? listening[0] : world_.dice().pick(listening);
}

/// The transport at one end; null when it is no more, or has closed the link.
SimTransport* Network::owner(const Connection& connection, int end) const {
  const auto found = transports_.find(connection.ends[end].owner);
  return found == transports_.end() ? nullptr : found->second;
}

std::vector<ConnectionPtr> Network::between(const std::string& a, const std::string& b) const {
  std::vector<ConnectionPtr> found;
  for (const auto& [order, member] : transports_) {
    for (const auto& [id, link] : member->links_) {
      if (!link.connection || link.connection->broken || link.end != 0) continue;
      const auto& [dialer, listener] = link.connection->ends;
      if ((dialer.peer.name == a && listener.peer.name == b) ||
          (dialer.peer.name == b && listener.peer.name == a)) {
        found.push_back(link.connection);
      }
    }
  }
  return found;
}

void Network::block(const std::string& from, const std::string& to, Nanoseconds until) {
  Path& path = paths_[{from, to}];
  path.blocked_until = std::max(path.blocked_until, until);
  if (until - world_.now() <= kHeartbeatsMissed) return;
  world_.after(kHeartbeatsMissed, [this, from, to] {
    if (!blocked(from, to)) return;
    for (const auto& connection : between(from, to)) break_connection(connection, "no heartbeats");
  });
}

void Network::slow(const std::string& from, const std::string& to, double factor,
                   Nanoseconds until) {
  Path& path = paths_[{from, to}];
  path.slow_until = until;
  path.slow_factor = factor;
}

void Network::reset(const std::string& a, const std::string& b) {
  for (const auto& connection : between(a, b)) break_connection(connection, "connection reset");
}

void Network::calm() {
  conditions.loss = conditions.combine_loss = conditions.duplicate = 0;
  conditions.reorder = conditions.corrupt = 0;
  for (auto& [ends, path] : paths_) path.blocked_until = path.slow_until = world_.now();
  for (const auto& [order, member] : transports_) {
    for (const auto& [id, link] : member->links_) {
      if (!link.connection) continue;
      flush_held(link.connection, 0);
      flush_held(link.connection, 1);
    }
  }
}

bool Network::is_lost(const Connection& connection, int from) {
  const bool answer = connection.ends[from].peer.kind == wire::ServiceKind::expert &&
                      connection.ends[1 - from].peer.kind == wire::ServiceKind::attention;
  return world_.dice().chance(conditions.loss + (answer ? conditions.combine_loss : 0));
}

/// Flips bytes or cuts the end, until the decoder notices: the wire carries no checksum of its own,
/// so what still decodes is the carrier's (TCP's) to catch.
bool Network::damage(wire::Frames& frames) {
  for (int attempt = 0; attempt < 8; ++attempt) {
    wire::Frames damaged = frames;
    wire::Frame& header = damaged[0];
    auto bytes = std::make_shared<std::vector<std::byte>>(header.data, header.data + header.size);
    if (world_.dice().chance(0.2)) bytes->resize(bytes->size() / 16 * 8);
    for (std::uint64_t flips = world_.dice().below(8) + 1; flips > 0 && !bytes->empty(); --flips) {
      (*bytes)[world_.dice().below(bytes->size())] ^= static_cast<std::byte>(1 + world_.dice().below(255));
    }
    header = {bytes, bytes->data(), bytes->size()};
    if (wire::decode(damaged).is_ok()) continue;
    frames = std::move(damaged);
    return true;
  }
  return false;
}

void Network::transmit(const ConnectionPtr& connection, int from, Item item) {
  const bool data = item.kind == Connection::Kind::data;
  if (!data) return travel(connection, from, std::move(item), true);
  ++counts_.messages;
  Dice& dice = world_.dice();
  if (is_lost(*connection, from)) {
    ++counts_.lost;
    world_.record(1, [&] { return "lost " + describe(item); });
    return settle(*connection, from, item);
  }
  const bool damaged = dice.chance(conditions.corrupt) && damage(item.frames);
  if (damaged) ++counts_.corrupted;
  if (dice.chance(conditions.duplicate)) {
    ++counts_.duplicated;
    if (damaged) ++counts_.corrupted;
    ++connection->ways[from].waiting;
    connection->ways[from].waiting_bytes += transport::bytes_of(item.frames);
    travel(connection, from, item, true);
  }
  const bool overtakes = dice.chance(conditions.reorder);
  if (overtakes) ++counts_.reordered;
  travel(connection, from, std::move(item), !overtakes);
}

void Network::travel(const ConnectionPtr& connection, int from, Item item, bool in_order) {
  Connection::Way& way = connection->ways[from];
  Nanoseconds delay = latency(connection->ends[from].peer.name, connection->ends[1 - from].peer.name);
  if (!in_order) delay += world_.dice().around(20 * conditions.latency_mean);
  Nanoseconds when = std::max(item.sent_at, world_.now()) + delay;
  if (in_order) way.last_arrival = when = std::max(when, way.last_arrival);
  world_.at(when, [this, connection, from, item = std::move(item), in_order]() mutable {
    arrive(connection, from, std::move(item), in_order);
  });
}

void Network::arrive(const ConnectionPtr& connection, int from, Item item, bool in_order) {
  Connection::Way& way = connection->ways[from];
  const bool never_left = item.sent_at > connection->ends[from].ended_at;
  if (connection->broken || never_left) return settle(*connection, from, item);
  const std::string& sender = connection->ends[from].peer.name;
  const std::string& receiver = connection->ends[1 - from].peer.name;
  const bool is_blocked = blocked(sender, receiver);
  if (is_blocked || (in_order && !way.held.empty())) {
    ++counts_.held;
    way.held.push_back(std::move(item));
    if (way.held.size() > 1 || !is_blocked) return;
    world_.at(paths_.at({sender, receiver}).blocked_until,
              [this, connection, from] { flush_held(connection, from); });
    return;
  }
  hand_over(connection, from, std::move(item));
}

void Network::flush_held(const ConnectionPtr& connection, int from) {
  auto& held = connection->ways[from].held;
  if (held.empty()) return;
  const std::string& sender = connection->ends[from].peer.name;
  const std::string& receiver = connection->ends[1 - from].peer.name;
  if (!connection->broken && blocked(sender, receiver)) {
    world_.at(paths_.at({sender, receiver}).blocked_until,
              [this, connection, from] { flush_held(connection, from); });
    return;
  }
  std::deque<Item> items = std::exchange(held, {});
  for (Item& item : items) {
    if (connection->broken) {
      settle(*connection, from, item);
    } else {
      hand_over(connection, from, std::move(item));
    }
  }
}

void Network::hand_over(const ConnectionPtr& connection, int from, Item item) {
  SimTransport* const receiver = owner(*connection, 1 - from);
  if (receiver == nullptr) return settle(*connection, from, item);
  const std::uint64_t content = item.frames.empty() ? 0 : hash_of(item.frames[0]);
  const auto kind = static_cast<std::uint64_t>(item.kind);
  world_.record(mix64(connection->id * 8 + kind * 2 + static_cast<std::uint64_t>(from)) ^ content, [&] {
    return fmt::format("{} -> {} {}", connection->ends[from].peer.name,
                       connection->ends[1 - from].peer.name, describe(item));
  });
  receiver->put({connection, 1 - from, std::move(item)});
}

/// A message leaves the books of its direction: polled, or gone.
void Network::settle(Connection& connection, int from, const Item& item) {
  if (item.kind != Connection::Kind::data) return;
  Connection::Way& way = connection.ways[from];
  way.waiting -= std::min<std::size_t>(way.waiting, 1);
  way.waiting_bytes -= std::min(way.waiting_bytes, transport::bytes_of(item.frames));
  SimTransport* const sender = owner(connection, from);
  if (std::exchange(way.refused, false) && sender != nullptr) sender->doorbell().ring();
}

void Network::break_connection(const ConnectionPtr& connection, const std::string& why) {
  if (connection->broken) return;
  connection->broken = true;
  ++counts_.links_broken;
  for (int end = 0; end < 2; ++end) {
    flush_held(connection, end);
    const Nanoseconds notice = world_.dice().around(10 * kMillisecond);
    world_.after(notice, [this, connection, end, why] {
      SimTransport* const member = owner(*connection, end);
      if (member != nullptr) member->put({connection, end, {Connection::Kind::down, {}, why, 0}});
    });
  }
}

}  // namespace fulgur::sim
