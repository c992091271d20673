// A Session as an actor of the reactor. It ends itself when the session has.
#pragma once

#include <memory>
#include <optional>

#include "common/actor/caf_compat.hpp"
#include "services/router/session.hpp"

namespace fulgur::router {

/// What the sessions of a router share; outlives them.
struct SessionDeps {
  actor::Handle mesh;
  const Clock* clock = nullptr;
  RouterMetrics* metrics = nullptr;
  std::uint64_t next_request = 1;  ///< reactor thread only
};

class SessionActor final : private SessionPort {
 public:
  SessionActor(actor::Self& self, SessionDeps* deps, std::shared_ptr<SessionInput> input);
  caf::behavior make_behavior();

 private:
  std::uint64_t new_request_id() override { return deps_.next_request++; }
  void submit(SubmitChoice order) override;
  void release(ReleaseChoice order) override;
  void quit_if_ended();

  actor::Self& self_;
  SessionDeps& deps_;
  http::Responder responder_;
  Session session_;
};

}  // namespace fulgur::router
