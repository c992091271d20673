// The orchestrator as an actor: hands what peers say to the Coordinator, ticks it, and sends what
// it decides. Holds no decisions of its own. A restarted actor starts like a restarted process:
// from nothing, under a new generation, rebuilt from registrations.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "common/actor/reactor.hpp"
#include "services/orchestrator/event_feed.hpp"
#include "services/orchestrator/mesh_view.hpp"

namespace fulgur::orchestrator {

/// Asks for mesh_json(); `answer` is called on the reactor's thread.
struct MeshQuery {
  std::function<void(std::string json)> answer;
};

/// Asks for events_json(); `answer` is called on the reactor's thread.
struct EventsQuery {
  EventPosition position;
  std::function<void(std::string json)> answer;
};

/// Lets somebody watch the mesh, or refuses.
struct WatchCommand {
  std::shared_ptr<Watcher> watcher;
  EventPosition position;
};

/// Drains or undrains members; `answer` is called on the reactor's thread.
struct DrainCommand {
  enum class Kind : std::uint8_t { drain, undrain };
  Kind kind = Kind::drain;
  std::vector<std::string> names;
  std::function<void(const Status& done)> answer;
};

struct OrchestratorDeps {
  actor::Reactor* reactor = nullptr;
  CoordinatorOptions options;
  SelfDescription self;
  MeshMetrics* metrics = nullptr;
  EventFeed* feed = nullptr;  ///< of the log `options.generation`; null: nobody may watch
  /// Hears whether the mesh serves, a few times a second.
  std::function<void(const Status& serving)> on_serving;
  /// Members obey a newer orchestrator. The process ends with `why`: its members look for the other
  /// one, and should that be gone by then, whoever starts this one again starts the newest.
  std::function<void(const Status& why)> on_superseded;
};

class OrchestratorActor final : private Outbox {
 public:
  OrchestratorActor(actor::Self& self, OrchestratorDeps deps);
  caf::behavior make_behavior();

 private:
  void send(transport::LinkId link, wire::Body body) override;
  void on_tick();
  void watch(const WatchCommand& command);
  void feed_watchers();
  Status run(const DrainCommand& command);

  actor::Self& self_;
  OrchestratorDeps deps_;
  Coordinator coordinator_;
};

/// Starts the actor, subscribes it to everything members send, and returns it.
actor::Handle start_orchestrator(actor::Reactor& reactor, OrchestratorDeps deps);

}  // namespace fulgur::orchestrator

FULGUR_LOCAL_MESSAGE(fulgur::orchestrator::MeshQuery)
FULGUR_LOCAL_MESSAGE(fulgur::orchestrator::EventsQuery)
FULGUR_LOCAL_MESSAGE(fulgur::orchestrator::WatchCommand)
FULGUR_LOCAL_MESSAGE(fulgur::orchestrator::DrainCommand)
