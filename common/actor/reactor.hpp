// The event loop of a service process: it polls the transport, decodes what arrives, hands it to the
// actor that subscribed to its kind, runs the actors, fires their timers and sleeps on the doorbell.
//
// Thread contract: run() owns the calling thread; post() and stop() are safe from any thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <tuple>
#include <vector>

#include "common/actor/messages.hpp"
#include "common/actor/reactor_scheduler.hpp"
#include "common/base/clock.hpp"
#include "common/transport/transport.hpp"

namespace fulgur::actor {

class Reactor final : private transport::Handler {
 public:
  /// Both outlive the reactor.
  Reactor(transport::Transport& transport, const Clock& clock);
  ~Reactor() override;
  Reactor(const Reactor&) = delete;
  Reactor& operator=(const Reactor&) = delete;

  caf::actor_system& system() { return *system_; }
  transport::Transport& transport() { return transport_; }
  const Clock& clock() const { return clock_; }

  template <class State, class... Args>
  Handle spawn(Args&&... args) {
    return spawn_state<State>(*system_, std::forward<Args>(args)...);
  }

  /// Messages of kind Body go to `actor` as Received<Body>. One actor a kind; others are dropped
  /// and counted.
  template <class Body>
  void subscribe(const Handle& actor) {
    std::get<Slot<Body>>(slots_).actor = actor;
  }

  /// `actor` receives LinkUp and LinkDown of every link.
  void subscribe_links(const Handle& actor) { link_watchers_.push_back(actor); }

  /// Runs `work` on the reactor thread. Safe from any thread.
  void post(std::function<void()> work);

  /// Runs until stop(). Exceptions that escape an actor end that actor, not the loop.
  void run();
  /// One pass without waiting; returns whether anything happened. For tests and simulation.
  bool run_once();
  /// Passes until nothing is left to do now, at most `limit` of them.
  void run_until_idle(std::size_t limit = 1'000'000);
  void stop();

  ReactorScheduler& scheduler() { return *scheduler_; }

  /// Messages that did not decode, or that nobody subscribed to.
  std::uint64_t malformed() const { return malformed_.load(std::memory_order_relaxed); }
  std::uint64_t unexpected() const { return unexpected_.load(std::memory_order_relaxed); }

 private:
  template <class Body>
  struct Slot {
    Handle actor;
  };
  template <class Variant>
  struct SlotsOf;
  template <class... Bodies>
  struct SlotsOf<std::variant<Bodies...>> {
    using type = std::tuple<Slot<Bodies>...>;
  };

  void on_link_up(transport::LinkId link, const transport::Peer& peer) override;
  void on_link_down(transport::LinkId link, const Status& why) override;
  void on_message(transport::LinkId link, wire::Frames frames) override;
  template <class Body>
  void deliver(transport::LinkId link, wire::Message& message, Body& body);
  bool run_posted();

  transport::Transport& transport_;
  const Clock& clock_;
  caf::actor_system_config config_;
  std::unique_ptr<caf::actor_system> system_;
  ReactorScheduler* scheduler_ = nullptr;
  SlotsOf<wire::Body>::type slots_;
  std::vector<Handle> link_watchers_;
  std::mutex posted_mutex_;
  std::vector<std::function<void()>> posted_;
  std::atomic<bool> stopping_{false};
  std::atomic<std::uint64_t> malformed_{0};
  std::atomic<std::uint64_t> unexpected_{0};
};

}  // namespace fulgur::actor
