// The wiring of a running orchestrator: transport, reactor, actor, admin server.
#pragma once

#include <atomic>
#include <memory>

#include "common/model/checkpoint.hpp"
#include "common/telemetry/admin.hpp"
#include "services/orchestrator/options.hpp"
#include "services/orchestrator/orchestrator_actor.hpp"

namespace fulgur::orchestrator {

/// What /readyz says, handed from the reactor's thread to the server's.
class ReadinessBoard {
 public:
  ReadinessBoard()
      : now_(std::make_shared<const http::Readiness>(http::Readiness{false, "starting"})) {}
  void post(const Status& serving) {
    now_.store(std::make_shared<const http::Readiness>(
        http::Readiness{serving.is_ok(), serving.is_ok() ? "ok" : serving.message()}));
  }
  http::Readiness read() const { return *now_.load(); }

 private:
  std::atomic<std::shared_ptr<const http::Readiness>> now_;
};

/// What the flags and the checkpoint say about the mesh.
CoordinatorOptions coordinator_options(const Options& options, const model::Checkpoint& checkpoint,
                                       const Clock& clock);

/// Spawns the root supervisor with the orchestrator under it, whose commands `server` answers. When the
/// actor fails or is superseded, `ended` says why and the reactor stops: only a new process hears
/// everybody register again. All references outlive the reactor's run.
void spawn_supervised(actor::Reactor& reactor, const Clock& clock, OrchestratorDeps deps,
                      http::Server& server, Status& ended);

}  // namespace fulgur::orchestrator
