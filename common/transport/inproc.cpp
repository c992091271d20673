#include "common/transport/inproc.hpp"

#include <deque>
#include <map>
#include <mutex>
#include <set>

#include "common/transport/event.hpp"
#include "common/transport/thread_bell.hpp"

namespace fulgur::transport {
namespace {

class InprocTransport;

/// One end of a link. The far end is (peer, peer_link) while the link is up.
struct InprocLink {
  std::string target;  ///< where connect() pointed; empty for accepted links
  InprocTransport* peer = nullptr;
  LinkId peer_link = 0;
  std::size_t messages_waiting = 0;  ///< sent from this end, not yet delivered
  std::size_t bytes_waiting = 0;
  bool refused = false;  ///< this end was told "full": ring its bell when there is room
};

}  // namespace

/// Everything the transports of one hub share, under one mutex.
class HubState {
 public:
  explicit HubState(LinkLimits limits) : limits(limits) {}

  static std::pair<std::string, std::string> pair_of(const std::string& a, const std::string& b) {
    return a < b ? std::pair{a, b} : std::pair{b, a};
  }

  const LinkLimits limits;
  std::mutex mutex;
  std::map<std::string, InprocTransport*> listeners;
  std::set<InprocTransport*> transports;
  std::set<std::pair<std::string, std::string>> cuts;
};

namespace {

class InprocTransport final : public Transport {
 public:
  InprocTransport(std::shared_ptr<HubState> hub, Identity identity, std::string endpoint)
      : hub_(std::move(hub)), identity_(std::move(identity)), endpoint_(std::move(endpoint)) {}

  ~InprocTransport() override {
    const std::lock_guard lock(hub_->mutex);
    while (!links_.empty()) forget(links_.begin()->first, "peer closed");
    hub_->transports.erase(this);
    const auto listener = hub_->listeners.find(endpoint_);
    if (listener != hub_->listeners.end() && listener->second == this) {
      hub_->listeners.erase(listener);
    }
  }

  std::string endpoint() const override { return endpoint_; }

  Result<LinkId> connect(const std::string& endpoint, Carrier carrier) override {
    if (!endpoint.starts_with("inproc://")) {
      return error(Code::invalid_argument, "cannot connect in-process to '{}'", endpoint);
    }
    if (carrier != Carrier::automatic && carrier != Carrier::inproc) {
      return error(Code::invalid_argument, "'{}' takes the in-process carrier only", endpoint);
    }
    const std::lock_guard lock(hub_->mutex);
    const LinkId id = next_link_++;
    links_[id].target = endpoint;
    waiting_.insert(id);
    try_connect(id);
    return id;
  }

  Status send(LinkId id, wire::Frames frames) override {
    FULGUR_RETURN_IF_ERROR(check_frames(frames));
    const std::lock_guard lock(hub_->mutex);
    const auto found = links_.find(id);
    if (found == links_.end() || found->second.peer == nullptr) {
      return error(Code::unavailable, "link {} is down", id);
    }
    InprocLink& link = found->second;
    const std::size_t bytes = bytes_of(frames);
    if (link.messages_waiting != 0 && (link.messages_waiting >= hub_->limits.queue_messages ||
                                       link.bytes_waiting + bytes > hub_->limits.queue_bytes)) {
      ++stats_.refused_busy;
      link.refused = true;
      return error(Code::resource_exhausted, "queue to {} is full", link.peer->identity_.name);
    }
    ++link.messages_waiting;
    link.bytes_waiting += bytes;
    ++stats_.messages_sent;
    stats_.bytes_sent += bytes;
    link.peer->push({link.peer_link, std::move(frames)});
    return Status::ok();
  }

  void close(LinkId id) override {
    const std::lock_guard lock(hub_->mutex);
    if (links_.contains(id)) forget(id, "peer closed the link");
  }

  std::size_t poll(Handler& handler, std::size_t max_events) override {
    std::size_t delivered = 0;
    while (delivered < max_events) {
      Event event;
      {
        const std::lock_guard lock(hub_->mutex);
        if (inbox_.empty() && !waiting_.empty()) connect_waiting();
        if (inbox_.empty()) break;
        event = std::move(inbox_.front());
        inbox_.pop_front();
        if (!links_.contains(event.link)) continue;
        settle(event);
      }
      deliver(std::move(event), handler);
      ++delivered;
    }
    return delivered;
  }

  Doorbell& doorbell() override { return bell_; }

  Stats stats() const override {
    const std::lock_guard lock(hub_->mutex);
    return stats_;
  }

  // The rest is called with the hub's mutex held.

  const std::string& name() const { return identity_.name; }
  bool has_waiting() const { return !waiting_.empty(); }
  void ring() { bell_.ring(); }

  /// Takes down every link to the process of this name; connecting ends keep trying.
  void sever(const std::string& name) {
    std::vector<LinkId> cut;
    for (const auto& [id, link] : links_) {
      if (link.peer != nullptr && link.peer->identity_.name == name) cut.push_back(id);
    }
    for (const LinkId id : cut) {
      InprocTransport* peer = links_[id].peer;
      const LinkId peer_link = links_[id].peer_link;
      peer->lose(peer_link, error(Code::unavailable, "link to {} was cut", identity_.name));
      lose(id, error(Code::unavailable, "link to {} was cut", name));
    }
  }

 private:
  void push(Event event) {
    inbox_.push_back(std::move(event));
    bell_.ring();
  }

  /// What an event changes when it is delivered: a message gives its sender room again, a loss ends
  /// an accepted link.
  void settle(const Event& event) {
    if (const auto* frames = std::get_if<wire::Frames>(&event.what)) {
      give_room(event.link, *frames);
    } else if (std::holds_alternative<Status>(event.what) && links_[event.link].target.empty()) {
      links_.erase(event.link);
    }
  }

  void give_room(LinkId id, const wire::Frames& frames) {
    const std::size_t bytes = bytes_of(frames);
    ++stats_.messages_received;
    stats_.bytes_received += bytes;
    const InprocLink& link = links_[id];
    if (link.peer == nullptr) return;
    const auto far = link.peer->links_.find(link.peer_link);
    if (far == link.peer->links_.end() || far->second.messages_waiting == 0) return;
    --far->second.messages_waiting;
    far->second.bytes_waiting -= std::min(bytes, far->second.bytes_waiting);
    if (std::exchange(far->second.refused, false)) link.peer->ring();
  }

  /// The link is down at this end. Connecting ends stay and wait; accepted ones end with the event.
  void lose(LinkId id, Status why) {
    InprocLink& link = links_[id];
    link.peer = nullptr;
    link.messages_waiting = link.bytes_waiting = 0;
    if (!link.target.empty()) waiting_.insert(id);
    push({id, std::move(why)});
  }

  void forget(LinkId id, const char* why) {
    const InprocLink link = links_[id];
    links_.erase(id);
    waiting_.erase(id);
    if (link.peer != nullptr) link.peer->lose(link.peer_link, error(Code::unavailable, "{}", why));
  }

  /// Called with an empty inbox only: a link comes up again after its end was delivered.
  void connect_waiting() {
    for (auto next = waiting_.begin(); next != waiting_.end();) try_connect(*next++);
  }

  void try_connect(LinkId id) {
    InprocLink& link = links_[id];
    const auto found = hub_->listeners.find(link.target);
    if (found == hub_->listeners.end()) return;
    InprocTransport* peer = found->second;
    if (hub_->cuts.contains(HubState::pair_of(identity_.name, peer->identity_.name))) return;
    const LinkId peer_link = peer->next_link_++;
    peer->links_[peer_link] = {{}, this, id, 0, 0, false};
    link.peer = peer;
    link.peer_link = peer_link;
    waiting_.erase(id);
    push({id, peer->as_peer()});
    peer->push({peer_link, as_peer()});
  }

  Peer as_peer() const {
    return {identity_.kind, identity_.name, identity_.incarnation, Carrier::inproc, identity_.gpu};
  }

  const std::shared_ptr<HubState> hub_;
  const Identity identity_;
  const std::string endpoint_;
  ThreadBell bell_;
  std::deque<Event> inbox_;  // bounded by the links' limits
  std::map<LinkId, InprocLink> links_;
  std::set<LinkId> waiting_;
  LinkId next_link_ = 1;
  Stats stats_;
};

}  // namespace

Hub::Hub(LinkLimits limits) : state_(std::make_shared<HubState>(limits)) {}
Hub::~Hub() = default;

Result<std::unique_ptr<Transport>> Hub::make(Identity identity, const std::string& endpoint) {
  if (!endpoint.empty() && !endpoint.starts_with("inproc://")) {
    return error(Code::invalid_argument, "cannot listen in-process on '{}'", endpoint);
  }
  auto transport = std::make_unique<InprocTransport>(state_, std::move(identity), endpoint);
  {
    const std::lock_guard lock(state_->mutex);
    if (endpoint.empty() || state_->listeners.try_emplace(endpoint, transport.get()).second) {
      for (InprocTransport* other : state_->transports) {
        if (other->has_waiting()) other->ring();
      }
      state_->transports.insert(transport.get());
      return std::unique_ptr<Transport>(std::move(transport));
    }
  }
  return error(Code::failed_precondition, "'{}' is taken", endpoint);
}

void Hub::cut(const std::string& name_a, const std::string& name_b) {
  const std::lock_guard lock(state_->mutex);
  state_->cuts.insert(HubState::pair_of(name_a, name_b));
  for (InprocTransport* transport : state_->transports) {
    if (transport->name() == name_a) transport->sever(name_b);
  }
}

void Hub::heal(const std::string& name_a, const std::string& name_b) {
  const std::lock_guard lock(state_->mutex);
  state_->cuts.erase(HubState::pair_of(name_a, name_b));
  for (InprocTransport* transport : state_->transports) {
    if (transport->has_waiting()) transport->ring();
  }
}

}  // namespace fulgur::transport
