#include "services/router/session_actor.hpp"

#include <utility>

namespace fulgur::router {

SessionActor::SessionActor(actor::Self& self, SessionDeps* deps,
                           std::shared_ptr<SessionInput> input)
    : self_(self),
      deps_(*deps),
      responder_(input->responder),
      session_(std::move(*input), *this, *deps->clock, *deps->metrics) {}

caf::behavior SessionActor::make_behavior() {
  const actor::Handle me(&self_);
  responder_.on_disconnect([me] { actor::tell(me, ClientGone{}); });
  responder_ = {};
  session_.start();
  if (session_.ended()) actor::tell(me, ClientGone{});  // there must be mail to quit at
  return {
      [this](const ChoiceTokens& message) {
        session_.on_tokens(message);
        quit_if_ended();
      },
      [this](const ChoiceDone& message) {
        session_.on_done(message);
        quit_if_ended();
      },
      [this](const ChoiceLost& message) {
        session_.on_lost(message);
        quit_if_ended();
      },
      [this](const ChoiceRefused& message) {
        session_.on_refused(message);
        quit_if_ended();
      },
      [this](const ClientGone&) {
        session_.on_client_gone();
        quit_if_ended();
      },
      [this](const DeadlineReached&) {
        session_.on_deadline();
        quit_if_ended();
      },
  };
}

void SessionActor::submit(SubmitChoice order) {
  order.session = actor::Handle(&self_);
  actor::tell(deps_.mesh, std::move(order));
}

void SessionActor::release(ReleaseChoice order) {
  if (deps_.mesh) actor::tell(deps_.mesh, order);  // none while the service is torn down
}

void SessionActor::quit_if_ended() {
  if (session_.ended()) self_.quit();
}

}  // namespace fulgur::router
