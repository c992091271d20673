// Actor shell of Engine and the shard's front: requests from routers, tokens back, placement and
// heartbeats with the orchestrator, drain.
#pragma once

#include "common/actor/orchestrator_link.hpp"
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
  void on_link_down(const actor::LinkDown& down);
  void on_ack(const wire::Ack& ack);
  void schedule_pump();
  void pump();
  void publish(Outcome outcome);
  void send(transport::LinkId link, wire::Body body);
  void tick();
  void leave();
  wire::Load load() const;

  actor::Self& self_;
  Shard& shard_;
  Engine& engine_;
  actor::OrchestratorLink orchestrator_;
  std::uint64_t epoch_ = 0;
  Nanoseconds next_beat_ = 0;
  bool pump_queued_ = false;
  bool draining_ = false;
};

}  // namespace fulgur::attention
