#include "services/orchestrator/process.hpp"

#include "common/actor/supervisor.hpp"
#include "services/orchestrator/admin_api.hpp"
#include "services/orchestrator/ops_page.hpp"

namespace fulgur::orchestrator {
namespace {

Nanoseconds to_nanoseconds(double seconds) {
  return static_cast<Nanoseconds>(seconds * static_cast<double>(kSecond));
}

PoolsOptions pools_options(const Options& options) {
  PoolsOptions pools;
  for (ScalingOptions* const pool : {&pools.experts, &pools.attention}) {
    pool->busy_target = options.busy_target;
    pool->shrink_window = to_nanoseconds(options.shrink_window_s);
  }
  pools.experts.floor = options.min_experts;
  pools.experts.ceiling = options.max_experts;
  pools.attention.floor = options.min_attention;
  pools.attention.ceiling = options.max_attention;
  pools.latency = {to_nanoseconds(options.slo_first_token_ms / 1e3),
                   to_nanoseconds(options.slo_inter_token_ms / 1e3)};
  return pools;
}

}  // namespace

CoordinatorOptions coordinator_options(const Options& options, const model::Checkpoint& checkpoint,
                                       const Clock& clock) {
  CoordinatorOptions result;
  result.epochs.shape = {checkpoint.config().layers, checkpoint.config().experts};
  result.epochs.replicas = options.replicas;
  result.epochs.expert_bytes = checkpoint.expert_bytes();
  result.epochs.spare = options.spare;
  result.epochs.rebalance_interval = to_nanoseconds(options.rebalance_interval_s);
  result.epochs.policy.moves_max = options.rebalance_moves;
  result.pools = pools_options(options);
  result.membership.heartbeat_timeout = to_nanoseconds(options.heartbeat_timeout_s);
  result.fingerprint = checkpoint.fingerprint();
  result.generation = static_cast<std::uint64_t>(clock.wall_now());
  result.expect_experts = options.expect_experts;
  result.expect_attention = options.expect_attention;
  result.grace = to_nanoseconds(options.grace_s);
  return result;
}

void spawn_supervised(actor::Reactor& reactor, const Clock& clock, OrchestratorDeps deps,
                      http::Server& server, Status& ended) {
  actor::SupervisorOptions supervision;
  supervision.restarts_max = 0;
  supervision.on_escalate = [&](const std::string& child, const std::string& why) {
    ended = error(Code::internal, "{} failed: {}", child, why);
    reactor.stop();
  };
  deps.on_superseded = [&](const Status& why) {
    ended = why;
    reactor.stop();
  };
  actor::ChildSpec child;
  child.name = "orchestrator";
  child.start = [&reactor, deps] { return start_orchestrator(reactor, deps); };
  child.on_started = [&server](const actor::Handle& started) {
    add_admin_api(server, started);
    add_ops_page(server, started);
  };
  reactor.spawn<actor::Supervisor>(&clock, supervision, std::vector<actor::ChildSpec>{child});
  reactor.run_until_idle(16);
}

}  // namespace fulgur::orchestrator
