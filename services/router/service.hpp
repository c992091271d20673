// The router as a library: everything between a transport and two listening HTTP ports. main.cpp
// gives it a ZeroMQ transport; tests give it an in-process one.
//
// Thread contract: start() and run() on one thread, which becomes the reactor's; stop() and drain()
// from any other.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "common/actor/reactor.hpp"
#include "common/base/clock.hpp"
#include "common/http/server.hpp"
#include "common/telemetry/otlp_tracer.hpp"
#include "common/transport/transport.hpp"
#include "services/router/http_api.hpp"
#include "services/router/mesh_actor.hpp"
#include "services/router/served_model.hpp"
#include "services/router/session_actor.hpp"

namespace fulgur::router {

struct ServiceOptions {
  std::string name = "router-0";
  std::uint64_t incarnation = 0;
  std::string host = "127.0.0.1";
  std::uint16_t port = 8000;
  std::string admin_host = "127.0.0.1";
  std::uint16_t admin_port = 0;
  std::string orchestrator;
  transport::Carrier carrier = transport::Carrier::automatic;
  std::size_t requests_max = 256;  ///< sequences admitted at a time
  std::size_t body_bytes_max = 32U << 20;
  std::size_t worker_threads = 1;  ///< check and tokenise requests
  std::string api_key;
  Nanoseconds request_timeout = 600 * kSecond;
  std::uint64_t seed = 0;
  std::string otlp_endpoint;   ///< collector of spans; empty: no tracing
  double trace_sample = 0.01;  ///< part of the requests without a traceparent that are traced
  std::shared_ptr<telemetry::Tracer> tracer;  ///< instead of one for `otlp_endpoint`; for tests
};

class Service {
 public:
  /// Binds both ports and spawns the mesh actor. `transport` and `clock` outlive the service.
  static Result<std::unique_ptr<Service>> start(ServiceOptions options,
                                                std::shared_ptr<const ServedModel> model,
                                                transport::Transport& transport,
                                                const Clock& clock);
  ~Service();

  /// Runs the reactor until stop().
  void run() { reactor_.run(); }
  /// After what was posted before, so that a router that drains has said so.
  void stop() {
    reactor_.post([this] { reactor_.stop(); });
  }
  /// Stops accepting, lets streams finish for at most `deadline`; whether all did.
  bool drain(Nanoseconds deadline);
  /// Called on the reactor thread when the router must leave: the mesh wants it, or it failed.
  void on_drain_request(std::function<void()> callback) { mesh_.on_drain = std::move(callback); }

  /// Why the service stopped by itself; ok when it did not. After on_drain_request's callback.
  const Status& failure() const { return failure_; }

  std::uint16_t port() const { return server_->port(); }
  std::string endpoint() const { return server_->endpoint(); }
  actor::Reactor& reactor() { return reactor_; }
  RouterMetrics& metrics() { return metrics_; }
  bool ready() const { return mesh_.ready.load(); }

 private:
  Service(ServiceOptions options, std::shared_ptr<const ServedModel> model,
          transport::Transport& transport, const Clock& clock);
  Status open_tracer();
  Status listen();
  void spawn_mesh();
  void subscribe(const actor::Handle& mesh);
  HttpApiDeps api_deps();

  ServiceOptions options_;
  std::shared_ptr<const ServedModel> model_;
  const Clock& clock_;
  RouterMetrics metrics_;
  std::shared_ptr<telemetry::Tracer> tracer_;  ///< null: off
  Admission admission_;
  MeshDeps mesh_;
  SessionDeps sessions_;
  Status failure_;
  actor::Reactor reactor_;
  std::unique_ptr<HttpApi> api_;
  std::unique_ptr<http::Server> server_;
  std::unique_ptr<http::Server> admin_;
};

}  // namespace fulgur::router
