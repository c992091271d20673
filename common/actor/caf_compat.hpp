// The CAF dialect of this project: the only header that includes CAF 0.17 by name. A move to a later
// CAF changes this file and reactor_scheduler.*, nothing else.
//
// An actor is a State class: its constructor takes the event_based_actor and its dependencies, its
// make_behavior() returns the handlers, and it is destroyed when the actor ends. Messages are plain
// C++ types that never leave the process (wire::Message does that), so none is serialisable.
#pragma once

#include <caf/all.hpp>

#include <chrono>
#include <functional>
#include <optional>
#include <utility>

#include "common/base/clock.hpp"

/// Declares that T may travel between actors of this process.
#define FULGUR_LOCAL_MESSAGE(T) CAF_ALLOW_UNSAFE_MESSAGE_TYPE(T)

namespace fulgur::actor {

using Handle = caf::actor;
using Self = caf::event_based_actor;

namespace detail {

/// Tells the scheduler of `system` which actors live, so that its owner can end them before the
/// system goes (reactor_scheduler.cpp).
void enroll(caf::actor_system& system, caf::event_based_actor* actor);
void dismiss(caf::actor_system& system, caf::event_based_actor* actor);

template <class State>
class StateActor final : public caf::event_based_actor {
 public:
  template <class... Args>
  explicit StateActor(caf::actor_config& config, Args&&... args) : caf::event_based_actor(config) {
    // CAF copies constructor arguments once into the actor; the State takes them from there.
    build_ = [this, ... held = std::forward<Args>(args)]() mutable {
      state_.emplace(*static_cast<caf::event_based_actor*>(this), std::move(held)...);
    };
  }

  caf::behavior make_behavior() override {
    enroll(system(), this);
    build_();
    build_ = nullptr;
    return state_->make_behavior();
  }

  void on_exit() override {
    dismiss(system(), this);
    state_.reset();
  }

 private:
  std::function<void()> build_;
  std::optional<State> state_;
};

}  // namespace detail

/// Starts an actor whose State is built as State(self, args...). Args are copied or moved; pass
/// dependencies as pointers or std::ref.
template <class State, class... Args>
Handle spawn_state(caf::actor_system& system, Args&&... args) {
  return system.spawn<detail::StateActor<State>>(std::forward<Args>(args)...);
}

/// Sends without a sender. Callable from any thread.
template <class... Args>
void tell(const Handle& to, Args&&... args) {
  caf::anon_send(to, std::forward<Args>(args)...);
}

/// Sends after a delay. Only from an actor of the same reactor.
template <class... Args>
void tell_after(Self& self, Nanoseconds delay, const Handle& to, Args&&... args) {
  self.delayed_send(to, std::chrono::nanoseconds(delay), std::forward<Args>(args)...);
}

/// Calls back (in self) when `watched` ends; overtakes ordinary mail.
inline void watch(Self& self, const Handle& watched) {
  self.monitor<caf::message_priority::high>(watched);
}

/// Ends an actor as if it had finished.
inline void stop(const Handle& actor) {
  caf::anon_send_exit(actor, caf::exit_reason::user_shutdown);
}

}  // namespace fulgur::actor
