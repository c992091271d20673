// What the actors of a shard say to each other.
#pragma once

#include "common/actor/messages.hpp"
#include "services/attention/micro_batch.hpp"

namespace fulgur::attention {

/// Engine or previous layer -> layer actor: attend, then have the experts run.
struct Forward {
  MicroBatchPtr batch;
};

/// Layer actor -> dispatch actor: the routes of `layer` are chosen.
struct RunExperts {
  MicroBatchPtr batch;
  std::uint32_t layer = 0;
};

/// Dispatch actor -> layer actor: every expert output is in, or batch->failure is set.
struct ExpertsDone {
  MicroBatchPtr batch;
};

/// Last layer -> engine actor (failed micro-batches come straight back).
struct BatchDone {
  MicroBatchPtr batch;
};

/// Engine actor -> itself: mail was drained, plan what is to be done.
struct Pump {};

/// An actor -> itself, a few times a second.
struct Tick {};

/// Engine actor -> dispatch actor.
struct AdoptPlacement {
  wire::Placement placement;
};

/// Dispatch actor -> engine actor: tell the orchestrator.
struct Say {
  wire::Body body;
};

/// Process -> engine actor: SIGTERM or Drain; finish what runs, then leave.
struct Leave {};

}  // namespace fulgur::attention

FULGUR_LOCAL_MESSAGE(fulgur::attention::Forward)
FULGUR_LOCAL_MESSAGE(fulgur::attention::RunExperts)
FULGUR_LOCAL_MESSAGE(fulgur::attention::ExpertsDone)
FULGUR_LOCAL_MESSAGE(fulgur::attention::BatchDone)
FULGUR_LOCAL_MESSAGE(fulgur::attention::Pump)
FULGUR_LOCAL_MESSAGE(fulgur::attention::Tick)
FULGUR_LOCAL_MESSAGE(fulgur::attention::AdoptPlacement)
FULGUR_LOCAL_MESSAGE(fulgur::attention::Say)
FULGUR_LOCAL_MESSAGE(fulgur::attention::Leave)
