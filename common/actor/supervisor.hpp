// One-for-one supervision with a restart budget. A child that ends abnormally is started again; when
// it happens more than `restarts_max` times within `window`, the supervisor gives up and calls
// `on_escalate`, which in a service ends the process (its own supervisor, the platform, restarts it).
#pragma once

#include <cstddef>
#include <deque>
#include <functional>
#include <map>
#include <string>

#include "common/actor/caf_compat.hpp"
#include "common/base/clock.hpp"

namespace fulgur::actor {

/// Decides whether another restart is allowed: at most `restarts_max` within any `window`.
class RestartBudget {
 public:
  RestartBudget(std::size_t restarts_max, Nanoseconds window)
      : restarts_max_(restarts_max), window_(window) {}
  /// Records a failure at `now`; false when the budget is spent.
  bool allow(Nanoseconds now);

 private:
  std::size_t restarts_max_;
  Nanoseconds window_;
  std::deque<Nanoseconds> recent_;
};

/// A child: how to start it, and what to do with the new handle.
struct ChildSpec {
  std::string name;
  std::function<Handle()> start;
  std::function<void(const Handle&)> on_started;
};

struct SupervisorOptions {
  std::size_t restarts_max = 5;
  Nanoseconds window = 10 * kSecond;
  std::function<void(const std::string& child, const std::string& why)> on_escalate;
};

/// State of the supervising actor; spawn with spawn_state<Supervisor>(system, clock, options, children).
class Supervisor {
 public:
  Supervisor(Self& self, const Clock* clock, SupervisorOptions options,
             std::vector<ChildSpec> children);
  caf::behavior make_behavior();

 private:
  void start(const ChildSpec& spec);
  void on_down(const caf::down_msg& down);

  Self& self_;
  Handle keep_;  ///< itself: CAF ends an actor that nobody can reach, and nobody need hold this one
  const Clock& clock_;
  SupervisorOptions options_;
  std::vector<ChildSpec> specs_;
  RestartBudget budget_;
  std::map<caf::actor_addr, std::size_t> running_;
};

}  // namespace fulgur::actor
