// What the router's actors say to each other: sessions ask the mesh actor to run sequences, it hands
// them what the shards answer.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/actor/messages.hpp"

namespace fulgur::router {

/// Session -> mesh: run this sequence on some shard.
struct SubmitChoice {
  actor::Handle session;
  wire::Submit submit;
  std::int64_t deadline_ns = 0;     ///< wall clock
  std::uint64_t prefix = 0;         ///< prefix_key of the prompt
  std::vector<std::string> avoid;   ///< shards that just refused it
  std::string prefer;               ///< shard that holds its state; empty: none
  bool patient = false;             ///< wait for a shard rather than be refused
  TraceContext trace;               ///< of a sampled request
};

/// Session -> mesh: nothing more is wanted of this sequence.
struct ReleaseChoice {
  std::uint64_t request = 0;
  bool cancel = false;  ///< the shard may still be at it
};

/// Mesh -> session.
struct ChoiceTokens {
  std::uint64_t request = 0;
  std::vector<wire::TokenEvent> events;
};
struct ChoiceDone {
  wire::Done done;
  std::string shard;
};
/// The shard that ran the sequence is gone.
struct ChoiceLost {
  std::uint64_t request = 0;
};
/// No shard takes the sequence.
struct ChoiceRefused {
  std::uint64_t request = 0;
  Status why;
};

/// To a session: the client hung up; the time is over.
struct ClientGone {};
struct DeadlineReached {};
/// To the mesh actor: the router takes nothing new and is about to end.
struct Leaving {};
/// To the mesh actor, from itself.
struct HeartbeatDue {};

}  // namespace fulgur::router

FULGUR_LOCAL_MESSAGE(fulgur::router::SubmitChoice)
FULGUR_LOCAL_MESSAGE(fulgur::router::ReleaseChoice)
FULGUR_LOCAL_MESSAGE(fulgur::router::ChoiceTokens)
FULGUR_LOCAL_MESSAGE(fulgur::router::ChoiceDone)
FULGUR_LOCAL_MESSAGE(fulgur::router::ChoiceLost)
FULGUR_LOCAL_MESSAGE(fulgur::router::ChoiceRefused)
FULGUR_LOCAL_MESSAGE(fulgur::router::ClientGone)
FULGUR_LOCAL_MESSAGE(fulgur::router::DeadlineReached)
FULGUR_LOCAL_MESSAGE(fulgur::router::Leaving)
FULGUR_LOCAL_MESSAGE(fulgur::router::HeartbeatDue)
