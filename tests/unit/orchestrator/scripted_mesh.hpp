// A mesh of scripted members around one Coordinator on virtual time: messages go through a queue
// that a test delivers one by one, so that it can kill anybody between any two of them.
#pragma once

#include <deque>
#include <map>
#include <string>

#include "services/orchestrator/coordinator.hpp"

namespace fulgur::orchestrator {

class ScriptedMesh final : private Outbox {
 public:
  static constexpr ModelShape kShape{3, 8};

  /// A member and what it has been told. Every start is a new link.
  struct Peer {
    wire::Register info;
    bool alive = true;
    bool told_to_leave = false;  ///< heard Drain; a worker leaves at once, a shard when asked to
    wire::Ack last_ack;
    wire::Ack last_refusal;
    wire::Prepare last_prepare;
    int prepares = 0;
    ReplicaMap held{kShape};
    std::map<std::uint64_t, ReplicaMap> prepared;
    int bad_loads = 0;  ///< so many Prepares that name what it lacks fail
    wire::Placement placement;  ///< shards and routers
  };

  explicit ScriptedMesh(CoordinatorOptions options = default_options()) { restart(options); }

  static CoordinatorOptions default_options() {
    CoordinatorOptions options;
    options.epochs.shape = kShape;
    options.generation = 1;
    options.fingerprint = 7;
    return options;
  }

  /// Kills the orchestrator and starts another that knows nothing.
  void restart(CoordinatorOptions options) {
    options.generation = ++generation_;
    queue_.clear();
    coordinator_.emplace(options, clock_, static_cast<Outbox&>(*this));
  }
  void start(wire::ServiceKind kind, const std::string& name, std::uint64_t capacity_bytes = 0) {
    Peer& peer = peers_[name];
    const std::uint64_t incarnation = peer.info.incarnation + 1;
    peer = Peer{};
    peer.info.kind = kind;
    peer.info.name = name;
    peer.info.incarnation = incarnation;
    peer.info.endpoint = "inproc://" + name + "/" + std::to_string(incarnation);
    peer.info.model_fingerprint = 7;
    peer.info.capacity_bytes = capacity_bytes;
    links_[name] = ++last_link_;
    announce(name);
  }
  /// Registers again as after a new link to the orchestrator.
  void announce(const std::string& name) {
    Peer& peer = peers_.at(name);
    peer.info.held.clear();
    for (std::uint32_t layer = 0; layer < kShape.layers; ++layer)
      for (std::uint32_t expert = 0; expert < kShape.experts; ++expert)
        if (peer.held.contains(layer, expert)) peer.info.held.emplace_back(layer, expert);
    coordinator_->on_register(link_of(name), peer.info);
  }
  void kill(const std::string& name) {
    peers_.at(name).alive = false;
    coordinator_->on_link_down(link_of(name));
  }

  /// The oldest message is lost on a link that stays up; false when none waits.
  bool lose() {
    if (queue_.empty()) return false;
    queue_.pop_front();
    return true;
  }
  void lose_all() { queue_.clear(); }

  /// Delivers the oldest message, with the member's reaction; false when none waits.
  bool step();
  void run() {
    while (step()) {
    }
  }
  /// Lets time pass with heartbeats of the living, then delivers everything.
  void pass(Nanoseconds time);
  /// The same, where all that is said to `deaf` is lost.
  void pass_with_loss(Nanoseconds time, const std::string& deaf) {
    deaf_ = deaf;
    pass(time);
    deaf_.clear();
  }
  /// The same, where heartbeats are the test's own affair.
  void pass_silently(Nanoseconds time);

  transport::LinkId link(const std::string& name) const { return link_of(name); }
  Coordinator& coordinator() { return *coordinator_; }
  Peer& peer(const std::string& name) { return peers_.at(name); }
  std::map<std::string, Peer>& peers() { return peers_; }
  std::uint64_t delivered() const { return delivered_; }

 private:
  struct Mail {
    transport::LinkId link;
    wire::Body body;
  };

  void send(transport::LinkId link, wire::Body body) override {
    queue_.push_back({link, std::move(body)});
  }
  transport::LinkId link_of(const std::string& name) const { return links_.at(name); }
  void receive(Peer& peer, const wire::Body& body);

  ManualClock clock_;
  std::uint64_t generation_ = 0;
  std::optional<Coordinator> coordinator_;
  std::map<std::string, Peer> peers_;
  std::map<std::string, transport::LinkId> links_;
  transport::LinkId last_link_ = 0;
  std::deque<Mail> queue_;
  std::uint64_t delivered_ = 0;
  std::string deaf_;
};

/// The bitmap of a message as a map of the scripted model.
inline ReplicaMap replicas_of(const std::vector<std::uint64_t>& words) {
  ReplicaMap map(ScriptedMesh::kShape);
  if (words.empty()) return map;
  for (std::uint32_t layer = 0; layer < ScriptedMesh::kShape.layers; ++layer)
    for (std::uint32_t expert = 0; expert < ScriptedMesh::kShape.experts; ++expert) {
      const std::uint64_t bit = layer * ScriptedMesh::kShape.experts + expert;
      if ((words.at(bit / 64) >> (bit % 64) & 1) != 0) map.add(layer, expert);
    }
  return map;
}

inline bool ScriptedMesh::step() {
  if (queue_.empty()) return false;
  const Mail mail = std::move(queue_.front());
  queue_.pop_front();
  ++delivered_;
  for (auto& [name, peer] : peers_)
    if (link_of(name) == mail.link && peer.alive && name != deaf_) receive(peer, mail.body);
  return true;
}

inline void ScriptedMesh::receive(Peer& peer, const wire::Body& body) {
  if (const auto* prepare = std::get_if<wire::Prepare>(&body)) {
    peer.last_prepare = *prepare;
    ++peer.prepares;
    ReplicaMap all = peer.held;
    all.add(replicas_of(prepare->replicas));
    if (peer.bad_loads > 0 && !(all == peer.held)) {
      --peer.bad_loads;
      coordinator_->on_prepared(
          {peer.info.name, peer.info.incarnation, prepare->epoch, Code::data_loss, "bad read"});
      return;
    }
    peer.held.add(replicas_of(prepare->replicas));
    peer.prepared.insert_or_assign(prepare->epoch, replicas_of(prepare->replicas));
    coordinator_->on_prepared(
        {peer.info.name, peer.info.incarnation, prepare->epoch, Code::ok, {}});
  } else if (const auto* ack = std::get_if<wire::Ack>(&body)) {
    peer.last_ack = *ack;
    if (ack->code != Code::ok) peer.last_refusal = *ack;
    if (ack->code == Code::not_found) announce(peer.info.name);
  } else if (std::holds_alternative<wire::Drain>(body)) {
    peer.told_to_leave = true;
    if (peer.info.kind == wire::ServiceKind::expert) kill(peer.info.name);
  } else if (const auto* retire = std::get_if<wire::Retire>(&body)) {
    peer.held = peer.prepared.at(retire->epoch);
  } else if (const auto* placement = std::get_if<wire::Placement>(&body)) {
    if (placement->epoch <= peer.placement.epoch) return;
    peer.placement = *placement;
    peer.info.epoch = placement->epoch;
    if (peer.info.kind == wire::ServiceKind::attention)
      coordinator_->on_switched({peer.info.name, peer.info.incarnation, placement->epoch});
  }
}

inline void ScriptedMesh::pass_silently(Nanoseconds time) {
  clock_.advance(time);
  coordinator_->tick();
  run();
}

inline void ScriptedMesh::pass(Nanoseconds time) {
  for (Nanoseconds passed = 0; passed < time; passed += kSecond / 2) {
    clock_.advance(kSecond / 2);
    for (auto& [name, peer] : peers_) {
      if (!peer.alive) continue;
      wire::Heartbeat beat;
      beat.name = name;
      beat.incarnation = peer.info.incarnation;
      beat.epoch = peer.info.epoch;
      coordinator_->on_heartbeat(link_of(name), beat);
    }
    coordinator_->tick();
    run();
  }
}

}  // namespace fulgur::orchestrator
