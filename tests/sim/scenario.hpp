// What one seed is about, drawn before anything runs: how large the mesh is, how its limits are set,
// which faults it suffers and how often (a subset a seed, as in swarm testing: rare combinations
// come up because common ones stay out), and when the requests come.
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "services/attention/expert_dispatch.hpp"
#include "services/attention/scheduler.hpp"
#include "services/expert/expert_layer.hpp"
#include "services/orchestrator/coordinator.hpp"
#include "tests/sim/network.hpp"
#include "tests/sim/timed_backend.hpp"

namespace fulgur::sim {

enum class Fault : std::uint8_t {
  // Within the contract of links and processes: no admitted request may fail.
  kill_worker,
  kill_shard,
  kill_router,
  kill_orchestrator,
  vanish,      ///< a host goes without closing its connections
  crash,       ///< one actor ends with an error
  stop,        ///< SIGSTOP, later SIGCONT
  slow,        ///< a worker or shard computes ten times slower
  lag,         ///< latency between two processes grows
  clog,        ///< one direction accepts and delivers later
  partition,   ///< one or both directions are cut; beyond the heartbeats the links end
  reset,       ///< a link ends, what is on its way is lost
  join,        ///< one worker more
  drain,       ///< SIGTERM to a worker or shard, or an operator's command
  hang_up,     ///< a client leaves
  bad_load,    ///< a worker cannot read a replica
  second_orchestrator,
  // Beyond it: requests may end with an error, never with a wrong token, and the mesh must recover.
  loss,
  lost_credit,  ///< answers of workers
  duplicate,
  reorder,
  corrupt,
};
inline constexpr std::size_t kFaults = 22;
std::string_view to_string(Fault fault);
constexpr bool beyond_contract(Fault fault) { return fault >= Fault::loss; }

struct Scenario {
  explicit Scenario(std::uint64_t seed);

  bool has(Fault fault) const { return every[static_cast<std::size_t>(fault)] > 0; }
  Nanoseconds period(Fault fault) const { return every[static_cast<std::size_t>(fault)]; }
  bool strict() const;  ///< within the contract: every admitted request must succeed

  // The mesh.
  std::uint32_t routers = 1;
  std::uint32_t shards = 1;
  std::uint32_t workers = 2;
  bool fresh_endpoints = false;  ///< a process that starts again is found elsewhere
  std::size_t requests_max = 256;
  attention::SchedulerOptions scheduler;
  attention::DispatchOptions dispatch;
  expert::ExpertLayerLimits layer;
  Nanoseconds drain_timeout = 0;  ///< a worker's wait for its replicas to be moved
  std::uint64_t capacity_replicas = 0;  ///< of a worker; 0: no limit
  orchestrator::CoordinatorOptions coordinator;
  transport::LinkLimits links;
  ComputeCost cost;
  Conditions conditions;
  double bad_load = 0;

  // What happens.
  bool faults_at_start = false;  ///< or only once the mesh serves
  Nanoseconds duration = 10 * kSecond;
  Nanoseconds restart_mean = kSecond;
  std::vector<Nanoseconds> every = std::vector<Nanoseconds>(kFaults);  ///< mean time between; 0: never
  std::vector<Nanoseconds> arrivals;  ///< after the mesh serves, ascending
  Nanoseconds request_timeout = 120 * kSecond;
};

}  // namespace fulgur::sim
