// One seed: a whole mesh on virtual time, its requests, its faults, and the checks. After the faults
// stop, everything must become quiet and serve again within a bound, exactly and without leaks.
#pragma once

#include <array>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "common/base/log_redirect.hpp"
#include "tests/sim/call.hpp"
#include "tests/sim/process.hpp"
#include "tests/sim/scenario.hpp"

namespace fulgur::sim {

/// What a seed gave.
struct Report {
  std::uint64_t seed = 0;
  std::vector<std::string> failures;  ///< empty: all checks passed
  std::uint64_t trace = 0;            ///< equal for equal seeds
  std::uint64_t events = 0;
  Nanoseconds duration = 0;           ///< virtual
  Nanoseconds recovery = 0;           ///< from the end of the faults until quiet and serving
  std::array<std::uint64_t, kFaults> faults{};
  std::map<Ending, std::uint64_t> endings;
  std::uint64_t tokens = 0;           ///< checked to the bit
  NetworkCounts network;
};

class Simulation {
 public:
  /// `lines` receives the trace as text when given.
  explicit Simulation(std::uint64_t seed, std::function<void(const std::string&)> lines = {});
  ~Simulation();
  Report run();

 private:
  /// A place in the mesh: a process, or one that will be started again.
  struct Place {
    wire::ServiceKind kind = wire::ServiceKind::expert;
    std::string name;
    std::unique_ptr<Process> process;
    bool spare = false;            ///< the orchestrator started by mistake
    std::uint64_t restart = 0;     ///< a late timer must not meet a newer one
    bool crashed = false;          ///< one of its actors was made to fail: it may exit
  };

  // Processes.
  Place& add_place(wire::ServiceKind kind, std::string name);
  void start(Place& place);
  std::unique_ptr<Process> make_process(Place& place);
  void end(Place& place, Death death, Nanoseconds restart_after);
  void on_exit(Place& place, const Exit& exit);
  std::string orchestrator_endpoint() const { return "sim://orchestrator"; }
  template <class Kind>
  std::vector<Kind*> alive() const;
  Place* pick_alive(wire::ServiceKind kind);
  Place* pick_alive();

  // Phases.
  void boot();
  void let_faults_begin();
  void recover();
  void probe();
  void run_until(Nanoseconds when);
  bool run_until(Nanoseconds bound, const std::function<bool()>& condition);

  // Faults.
  void schedule_fault(Fault fault);
  void inject(Fault fault);
  std::pair<std::string, std::string> pick_link();
  void slow_down();
  void partition();
  void start_second_orchestrator();
  void drain_somebody();
  void crash_somebody();
  void hang_up_somebody();

  // Requests.
  void schedule_requests();
  void start_call();
  std::shared_ptr<Call> send_call(RouterProcess& router, Nanoseconds timeout);

  // Checks.
  void watch(const transport::Identity& from, const wire::Frames& frames);
  void watch_log(log::Level level, std::string_view line);
  bool serving();
  std::string unrest();
  void ask_view();
  void check_calls();
  void check_call(const Call& call);
  void check_leaks();
  void fail(std::string what);
  Report report();

  const std::uint64_t seed_;
  const Scenario scenario_;
  const SimModel& model_;
  World world_;
  Dice dice_;  ///< of faults and requests; the world's own is for schedule and network
  Network network_;
  LoadingConditions loading_;
  std::vector<std::unique_ptr<Place>> places_;
  std::vector<std::shared_ptr<Call>> calls_;
  std::uint32_t joined_ = 0;  ///< workers beyond the scenario's
  bool faulty_ = false;      ///< faults may be injected now
  bool calm_ = false;        ///< they are over: nothing restarts late any more
  std::uint64_t next_incarnation_ = 1;
  std::string view_;         ///< the orchestrator's, as of a moment ago
  Nanoseconds faults_ended_ = 0;
  Report report_;
  std::map<std::uint64_t, std::uint64_t> epochs_;  ///< last published, by generation
};

template <class Kind>
std::vector<Kind*> Simulation::alive() const {
  std::vector<Kind*> found;
  for (const auto& place : places_) {
    if (auto* process = dynamic_cast<Kind*>(place->process.get())) found.push_back(process);
  }
  return found;
}

Report simulate(std::uint64_t seed, std::function<void(const std::string&)> lines = {});

}  // namespace fulgur::sim
