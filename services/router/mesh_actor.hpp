// The router's end of the mesh: registers with the orchestrator, keeps links to the shards that the
// placement names, places sequences on them and hands their tokens to the sessions.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <string>

#include "common/actor/messages.hpp"
#include "common/base/clock.hpp"
#include "common/transport/transport.hpp"
#include "services/router/messages.hpp"
#include "services/router/router_metrics.hpp"
#include "services/router/shard_picker.hpp"

namespace fulgur::router {

struct MeshDeps {
  transport::Transport* transport = nullptr;
  const Clock* clock = nullptr;
  RouterMetrics* metrics = nullptr;
  wire::Register registration;         ///< who this router is
  std::string orchestrator;            ///< endpoint; empty: none, then placements arrive on any link
  transport::Carrier carrier = transport::Carrier::automatic;
  std::function<void()> on_drain;      ///< the orchestrator asks this router to leave
  std::atomic<bool> ready{false};      ///< out: some shard takes sequences; any thread may read
};

class MeshActor {
 public:
  MeshActor(actor::Self& self, MeshDeps* deps);
  caf::behavior make_behavior();

 private:
  struct Running {
    actor::Handle session;
    std::string shard;
    std::int64_t deadline_ns = 0;  ///< wall clock
  };

  void on_link_up(const actor::LinkUp& event);
  void on_link_down(const actor::LinkDown& event);
  void on_placement(const wire::Placement& placement);
  void on_ack(const wire::Ack& ack);
  void on_tokens(wire::Tokens& tokens);
  void on_done(const wire::Done& done);
  void on_submit(SubmitChoice& order);
  void on_release(const ReleaseChoice& order);
  void on_session_down(const caf::actor_addr& session);
  void on_leaving();
  void on_heartbeat_due();
  void send_heartbeat();
  void enforce_deadlines();

  /// Sends the order to a shard; false when none takes it.
  bool place(const SubmitChoice& order);
  Status why_refused() const;
  void retry_waiting();
  /// Takes a sequence off its shard's books.
  void forget(std::map<std::uint64_t, Running>::iterator running);
  void connect_shard(const std::string& name);
  void register_here();
  Status send(transport::LinkId link, wire::Body body, std::int64_t deadline_ns = 0,
              const TraceContext& trace = {});
  void update_ready();

  actor::Self& self_;
  MeshDeps& deps_;
  ShardPicker picker_;
  std::map<std::uint64_t, Running> running_;
  std::deque<SubmitChoice> waiting_;  ///< bounded by admission: each belongs to an admitted request
  transport::LinkId orchestrator_ = 0;
  bool orchestrator_up_ = false;
  std::uint64_t generation_ = 0;  ///< largest orchestrator generation seen
  std::uint64_t placed_generation_ = 0;  ///< of the last placement, as is epoch_
  std::uint64_t epoch_ = 0;
  std::uint64_t requests_total_ = 0;
};

}  // namespace fulgur::router
