// Actor shell of Engine and the shard's front: requests from routers, tokens back, placement and
// heartbeats with the orchestrator, snapshots from and to other shards, drain.
#pragma once

#include <optional>
#include <set>

#include "common/actor/orchestrator_link.hpp"
#include "services/attention/evacuation.hpp"
#include "services/attention/messages.hpp"
#include "services/attention/shard.hpp"

namespace fulgur::attention {

class EngineActor {
 public:
  EngineActor(actor::Self& self, Shard* shard);
  caf::behavior make_behavior();

 private:
  void on_submit(actor::Received<wire::Submit>& received);
  void on_batch_done(const MicroBatchPtr& batch);
  void on_placement(const wire::Placement& placement);
  void on_offer(const actor::Received<wire::SnapshotOffer>& received);
  void on_chunk(const actor::Received<wire::SnapshotChunk>& received);
  void on_link_up(const actor::LinkUp& up);
  void on_link_down(const actor::LinkDown& down);
  void on_ack(const wire::Ack& ack);
  void schedule_pump();
  void pump();
  void publish(Outcome outcome);
  void send(transport::LinkId link, wire::Body body);
  void tick();
  void leave();
  Evacuation::Hooks evacuation_hooks();
  std::vector<wire::ShardEntry> other_shards() const;
  /// Moves on with leaving, if this shard leaves.
  void evacuate();
  wire::Load load() const;

  actor::Self& self_;
  Shard& shard_;
  Engine& engine_;
  actor::OrchestratorLink orchestrator_;
  std::uint64_t epoch_ = 0;              ///< of the last placement …
  std::uint64_t placed_generation_ = 0;  ///< … and whose it was
  Nanoseconds next_beat_ = 0;
  bool pump_queued_ = false;
  std::vector<wire::ShardEntry> shards_;   ///< of the newest placement
  std::set<transport::LinkId> peers_;      ///< links to and from other shards
  std::optional<Evacuation> evacuation_;   ///< this shard leaves
  Outcome handed_over_;                    ///< by it, not yet published
  Nanoseconds leave_by_ = 0;               ///< whatever is still in flight then
  bool left_ = false;
};

}  // namespace fulgur::attention
