#include "services/orchestrator/process.hpp"

namespace fulgur::orchestrator {
namespace {

Nanoseconds to_nanoseconds(double seconds) {
  return static_cast<Nanoseconds>(seconds * static_cast<double>(kSecond));
}

}  // namespace

CoordinatorOptions coordinator_options(const Options& options, const model::Checkpoint& checkpoint,
                                       const Clock& clock) {
  CoordinatorOptions result;
  result.epochs.shape = {checkpoint.config().layers, checkpoint.config().experts};
  result.epochs.replicas = options.replicas;
  result.epochs.expert_bytes = checkpoint.expert_bytes();
  result.membership.heartbeat_timeout = to_nanoseconds(options.heartbeat_timeout_s);
  result.fingerprint = checkpoint.fingerprint();
  result.generation = static_cast<std::uint64_t>(clock.wall_now());
  result.expect_experts = options.expect_experts;
  result.expect_attention = options.expect_attention;
  result.grace = to_nanoseconds(options.grace_s);
  return result;
}

void add_mesh_route(http::Server& server, const actor::Handle& orchestrator) {
  server.handle("GET", "/v1/mesh", [orchestrator](http::Request, http::Responder responder) {
    actor::tell(orchestrator, MeshQuery{[responder](std::string json) {
                  responder.respond(200, "application/json", std::move(json));
                }});
  });
}

}  // namespace fulgur::orchestrator
