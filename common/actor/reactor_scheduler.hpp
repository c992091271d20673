// A CAF scheduler without threads: jobs run when the owner of the loop says so. In production the
// owner is a Reactor on real time; in simulation it is the test, on virtual time. One thread runs
// every actor of a process next to the transport and the compute, so a message between actors costs
// a queue operation and no hand-off between threads.
#pragma once

#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include <caf/detail/test_actor_clock.hpp>
#include <caf/event_based_actor.hpp>
#include <caf/scheduler/abstract_coordinator.hpp>

#include "common/base/clock.hpp"

namespace fulgur::actor {

/// CAF's steppable clock, plus when it wants to be stepped next.
class ReactorClock final : public caf::detail::test_actor_clock {
 public:
  /// Fires everything due at `now` (nanoseconds of fulgur::Clock). Returns how many fired.
  std::size_t advance_to(Nanoseconds now);
  /// When the next timeout is due; `otherwise` when there is none.
  Nanoseconds next_due(Nanoseconds otherwise) const;
};

class ReactorScheduler final : public caf::scheduler::abstract_coordinator {
 public:
  explicit ReactorScheduler(caf::actor_system& system);
  ~ReactorScheduler() override;

  /// Called when a job arrives from a thread other than the owner's.
  void set_wake(std::function<void()> wake) { wake_ = std::move(wake); }
  /// The calling thread becomes the owner: only it may run jobs.
  void adopt_thread() { owner_ = std::this_thread::get_id(); }

  /// Runs at most `limit` jobs, those they start included. Returns how many ran.
  std::size_t run_jobs(std::size_t limit);
  bool has_jobs();
  /// Moves the job at `index` of the queue to its front: the simulation's choice of schedule.
  void prioritize(std::size_t index);
  std::size_t queued() const { return local_.size(); }

  /// Ends every actor, oldest first (supervisors before their children), and runs what that takes.
  void end_actors();
  void enroll(caf::event_based_actor* actor) { actors_.push_back(actor); }
  void dismiss(caf::event_based_actor* actor) { std::erase(actors_, actor); }

  ReactorClock& clock() noexcept override { return clock_; }
  bool detaches_utility_actors() const override { return false; }

 protected:
  void start() override;
  void stop() override;
  void enqueue(caf::resumable* job) override;

 private:
  class Unit;

  void take_foreign();

  ReactorClock clock_;
  std::unique_ptr<Unit> unit_;
  std::deque<caf::resumable*> local_;    ///< owner thread only
  std::mutex foreign_mutex_;
  std::deque<caf::resumable*> foreign_;  ///< from other threads
  std::function<void()> wake_;
  std::thread::id owner_;
  std::vector<caf::event_based_actor*> actors_;  ///< alive, in order of start; owner thread only
};

}  // namespace fulgur::actor
