// What the actors of an expert worker say to each other.
#pragma once

#include <memory>
#include <string>

#include "common/actor/messages.hpp"
#include "services/expert/weight_store.hpp"

namespace fulgur::expert {

/// Layer actor -> itself: the mailbox was drained, compute what is pending.
struct RunPending {};

/// Node actor -> itself.
struct HeartbeatDue {};

/// Loader thread -> node actor.
struct ReplicaLoaded {
  ReplicaId id;
  std::shared_ptr<const kernels::Expert> weights;  ///< null when loading failed
  Status why;
};

/// Node actor -> layer actor: add your per-expert counts since the last call to this heartbeat.
/// Answered with LayerLoad.
struct AskLoad {};

struct LayerLoad {
  std::uint32_t layer = 0;
  std::size_t queued = 0;
  std::uint64_t dispatches_total = 0;
  std::uint64_t routed_rows_total = 0;
  std::uint64_t runs_total = 0;  ///< grouped products
  std::uint64_t refused_total = 0;  ///< dispatches that there was no memory to run
  Nanoseconds busy_total = 0;
  Nanoseconds wait_total = 0;  ///< of dispatches in the queue
  std::vector<std::uint64_t> expert_tokens;  ///< [experts] since the last AskLoad
};

/// Process -> node actor: SIGTERM. The orchestrator is asked to move the replicas away first.
struct Leave {};

/// Node actor -> itself: the orchestrator had its time; finish what is queued, then leave.
struct LeaveNow {};

}  // namespace fulgur::expert

FULGUR_LOCAL_MESSAGE(fulgur::expert::RunPending)
FULGUR_LOCAL_MESSAGE(fulgur::expert::HeartbeatDue)
FULGUR_LOCAL_MESSAGE(fulgur::expert::ReplicaLoaded)
FULGUR_LOCAL_MESSAGE(fulgur::expert::AskLoad)
FULGUR_LOCAL_MESSAGE(fulgur::expert::LayerLoad)
FULGUR_LOCAL_MESSAGE(fulgur::expert::Leave)
FULGUR_LOCAL_MESSAGE(fulgur::expert::LeaveNow)
