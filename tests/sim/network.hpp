// The network between simulated processes, on virtual time: every process has a Transport whose
// links obey the contract of the real one (ordered and reliable while up, loss only with the link)
// until a fault says otherwise.
//
// Faults within the contract: latency, blocked directions (a short one is a clog, one beyond the
// heartbeats ends the link), resets, deaths with and without a last word. Beyond it: messages lost,
// doubled, overtaken, damaged. One thread.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "common/transport/options.hpp"
#include "common/transport/transport.hpp"
#include "tests/sim/world.hpp"

namespace fulgur::sim {

/// What messages on their way meet.
struct Conditions {
  Nanoseconds latency_min = 200 * kMicrosecond;
  Nanoseconds latency_mean = kMillisecond;  ///< on top of the least
  double loss = 0;          ///< of any message; beyond the contract, as all that follow
  double combine_loss = 0;  ///< of a worker's answers only: lost credits
  double duplicate = 0;
  double reorder = 0;
  double corrupt = 0;
};

/// How often what happened; for reports and checks.
struct NetworkCounts {
  std::uint64_t messages = 0;
  std::uint64_t lost = 0;
  std::uint64_t duplicated = 0;
  std::uint64_t reordered = 0;
  std::uint64_t corrupted = 0;          ///< delivered to a reactor, which must count them
  std::uint64_t held = 0;               ///< waited for a blocked direction
  std::uint64_t links_broken = 0;
  std::size_t queue_messages_max = 0;   ///< longest queue of a link
};

class SimTransport;

/// One life of a link. End 0 dialed, end 1 listened.
struct Connection {
  enum class Kind : std::uint8_t { hello, welcome, data, down };
  /// Something on its way from one end to the other.
  struct Item {
    Kind kind = Kind::data;
    wire::Frames frames = {};
    std::string why = {};
    Nanoseconds sent_at = 0;
  };
  struct End {
    std::uint64_t owner = 0;  ///< Network's number of the transport; 0: dead, or closed the link
    transport::Peer peer;     ///< who is at this end
    transport::LinkId link = 0;
    Nanoseconds ended_at = std::numeric_limits<Nanoseconds>::max();
  };
  struct Way {
    Nanoseconds last_arrival = 0;
    std::size_t waiting = 0;  ///< messages sent and not yet polled by the receiver
    std::size_t waiting_bytes = 0;
    bool refused = false;     ///< the sender was told "full": wake it when there is room
    std::deque<Item> held;    ///< the direction is blocked
  };

  std::uint64_t id = 0;
  bool broken = false;
  End ends[2];
  Way ways[2];  ///< [from end]
};
using ConnectionPtr = std::shared_ptr<Connection>;

class Network {
 public:
  Network(World& world, transport::LinkLimits limits) : world_(world), limits_(limits) {}

  /// A process's transport. `clock` is that process's; `wake` is called when it has mail.
  std::unique_ptr<SimTransport> make(transport::Identity identity, std::string endpoint,
                                     const ProcessClock& clock, std::function<void()> wake);

  Conditions conditions;
  /// Sees every message that is sent, before any fault.
  std::function<void(const transport::Identity& from, const wire::Frames&)> tap;

  /// Nothing travels from one process to another until then.
  void block(const std::string& from, const std::string& to, Nanoseconds until);
  /// Latency between two processes is multiplied.
  void slow(const std::string& from, const std::string& to, double factor, Nanoseconds until);
  /// Ends the links between two processes; what is on its way is lost. They connect again.
  void reset(const std::string& a, const std::string& b);
  /// No direction is blocked or slowed, nothing is lost any more.
  void calm();

  const NetworkCounts& counts() const { return counts_; }

 private:
  friend class SimTransport;
  using Item = Connection::Item;
  struct Path {
    Nanoseconds blocked_until = 0;
    Nanoseconds slow_until = 0;
    double slow_factor = 1;
  };

  bool blocked(const std::string& from, const std::string& to) const;
  Nanoseconds latency(const std::string& from, const std::string& to);
  SimTransport* listener(const std::string& endpoint);
  SimTransport* owner(const Connection& connection, int end) const;
  /// Sends from one end of a connection, subject to the faults beyond the contract.
  void transmit(const ConnectionPtr& connection, int from, Item item);
  void travel(const ConnectionPtr& connection, int from, Item item, bool in_order);
  void arrive(const ConnectionPtr& connection, int from, Item item, bool in_order);
  void hand_over(const ConnectionPtr& connection, int from, Item item);
  void flush_held(const ConnectionPtr& connection, int from);
  bool is_lost(const Connection& connection, int from);
  bool damage(wire::Frames& frames);
  void settle(Connection& connection, int from, const Item& item);
  void break_connection(const ConnectionPtr& connection, const std::string& why);
  std::vector<ConnectionPtr> between(const std::string& a, const std::string& b) const;

  World& world_;
  const transport::LinkLimits limits_;
  NetworkCounts counts_;
  std::map<std::uint64_t, SimTransport*> transports_;  ///< alive, in order of making
  std::uint64_t next_transport_ = 1;
  std::uint64_t next_connection_ = 1;
  std::map<std::pair<std::string, std::string>, Path> paths_;
};

/// How a process leaves: killed closes its connections, vanished says nothing.
enum class Death : std::uint8_t { killed, vanished };

class SimTransport final : public transport::Transport {
 public:
  ~SimTransport() override;

  std::string endpoint() const override { return endpoint_; }
  Result<transport::LinkId> connect(const std::string& endpoint, transport::Carrier) override;
  Status send(transport::LinkId link, wire::Frames frames) override;
  void close(transport::LinkId link) override;
  std::size_t poll(transport::Handler& handler, std::size_t max_events) override;
  transport::Doorbell& doorbell() override;
  transport::Stats stats() const override { return stats_; }

  bool has_mail() const { return !inbox_.empty(); }
  /// How the process ends when this transport is destroyed.
  void set_death(Death death) { death_ = death; }

 private:
  friend class Network;
  class Bell;
  struct Mail {
    ConnectionPtr connection;
    int end = 0;  ///< the receiving one
    Connection::Item item;
  };
  struct Link {
    std::string target;  ///< where connect() pointed; empty for accepted links
    ConnectionPtr connection;
    int end = 0;
    bool up = false;
    transport::Peer peer;
    Nanoseconds backoff = 0;
    std::uint64_t attempt = 0;  ///< dials so far: a late timer must not meet a newer one
  };

  SimTransport(Network& network, std::uint64_t order, transport::Identity identity,
               std::string endpoint, const ProcessClock& clock, std::function<void()> wake);
  transport::Peer as_peer() const;
  void dial(transport::LinkId id);
  void dial_later(transport::LinkId id);
  void give_up_unless_up(transport::LinkId id, std::uint64_t attempt);
  void deliver(Mail mail, transport::Handler& handler);
  void on_hello(const Mail& mail, transport::Handler& handler);
  void lose(transport::LinkId id, const std::string& why, transport::Handler& handler);
  void put(Mail mail);
  void refuse_pending();

  Network& network_;
  const std::uint64_t order_;
  const transport::Identity identity_;
  const std::string endpoint_;
  const ProcessClock& clock_;
  std::unique_ptr<Bell> bell_;
  std::deque<Mail> inbox_;
  std::map<transport::LinkId, Link> links_;
  transport::LinkId next_link_ = 1;
  transport::Stats stats_;
  Death death_ = Death::killed;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);  ///< timers hold it weakly
};

}  // namespace fulgur::sim
