#include "services/router/service.hpp"

#include <unistd.h>

#include <utility>

#include "common/actor/supervisor.hpp"
#include "common/base/log.hpp"

namespace fulgur::router {

Service::Service(ServiceOptions options, std::shared_ptr<const ServedModel> model,
                 transport::Transport& transport, const Clock& clock)
    : options_(std::move(options)),
      model_(std::move(model)),
      clock_(clock),
      metrics_(options_.name),
      admission_(options_.requests_max),
      reactor_(transport, clock) {
  mesh_.transport = &transport;
  mesh_.clock = &clock;
  mesh_.metrics = &metrics_;
  mesh_.orchestrator = options_.orchestrator;
  mesh_.carrier = options_.carrier;
  sessions_.clock = &clock;
  sessions_.metrics = &metrics_;
}

Service::~Service() {
  drain(0);
  sessions_.mesh = nullptr;
}

Result<std::unique_ptr<Service>> Service::start(ServiceOptions options,
                                                std::shared_ptr<const ServedModel> model,
                                                transport::Transport& transport,
                                                const Clock& clock) {
  std::unique_ptr<Service> service(
      new Service(std::move(options), std::move(model), transport, clock));
  FULGUR_RETURN_IF_ERROR(service->open_tracer());
  FULGUR_RETURN_IF_ERROR(service->listen());
  service->spawn_mesh();
  service->server_->start();
  service->admin_->start();
  return service;
}

HttpApiDeps Service::api_deps() {
  HttpApiDeps deps;
  deps.model = model_;
  deps.clock = &clock_;
  deps.metrics = &metrics_;
  deps.admission = &admission_;
  deps.ready = &mesh_.ready;
  deps.api_key = options_.api_key;
  deps.tracing = RequestTracing(tracer_.get(), options_.trace_sample);
  deps.request_timeout = options_.request_timeout;
  deps.seed = options_.seed;
  deps.start_session = [this](std::shared_ptr<SessionInput> input) {
    reactor_.post([this, input = std::move(input)] {
      reactor_.spawn<SessionActor>(&sessions_, input);
    });
  };
  return deps;
}

Status Service::open_tracer() {
  tracer_ = options_.tracer;
  if (tracer_) return Status::ok();
  telemetry::OtlpOptions otlp;
  otlp.endpoint = options_.otlp_endpoint;
  otlp.resource = {"fulgur-router", options_.name};
  FULGUR_ASSIGN_OR_RETURN(tracer_, telemetry::OtlpTracer::start(otlp, clock_, metrics_.registry()));
  return Status::ok();
}

Status Service::listen() {
  http::ServerOptions http;
  http.body_bytes_max = options_.body_bytes_max;
  http.worker_threads = options_.worker_threads;
  http.connections_max = options_.requests_max * 4 + 64;
  http.error_body = [](int status, std::string_view message) {
    return http::ErrorBody{"application/json", from_http(status, message).body()};
  };
  FULGUR_ASSIGN_OR_RETURN(server_, http::Server::listen(options_.host, options_.port, http));
  FULGUR_ASSIGN_OR_RETURN(admin_, http::Server::listen(options_.admin_host, options_.admin_port));
  api_ = std::make_unique<HttpApi>(api_deps());
  api_->add_routes(*server_);
  http::add_admin_routes(*admin_, {.metrics = [this] { return metrics_.text(); },
                                   .readiness = [deps = api_deps()] { return readiness_of(deps); }});
  return Status::ok();
}

void Service::spawn_mesh() {
  wire::Register& registration = mesh_.registration;
  registration.kind = wire::ServiceKind::router;
  registration.name = options_.name;
  registration.incarnation = options_.incarnation;
  registration.pid = static_cast<std::uint32_t>(::getpid());
  registration.endpoint = mesh_.transport->endpoint();
  registration.admin_endpoint = admin_->endpoint();
  registration.model_fingerprint = model_->fingerprint();
  // Without its books the router cannot go on: a failed mesh actor ends the process.
  actor::SupervisorOptions supervision;
  supervision.restarts_max = 0;
  supervision.on_escalate = [this](const std::string& child, const std::string& why) {
    failure_ = error(Code::internal, "{} failed: {}", child, why);
    if (mesh_.on_drain) mesh_.on_drain();
  };
  reactor_.spawn<actor::Supervisor>(
      &clock_, supervision,
      std::vector<actor::ChildSpec>{{"mesh", [this] { return reactor_.spawn<MeshActor>(&mesh_); },
                                     [this](const actor::Handle& mesh) { subscribe(mesh); }}});
}

void Service::subscribe(const actor::Handle& mesh) {
  sessions_.mesh = mesh;
  reactor_.subscribe<wire::Placement>(mesh);
  reactor_.subscribe<wire::Ack>(mesh);
  reactor_.subscribe<wire::Tokens>(mesh);
  reactor_.subscribe<wire::Done>(mesh);
  reactor_.subscribe<wire::Drain>(mesh);
  reactor_.subscribe_links(mesh);
}

bool Service::drain(Nanoseconds deadline) {
  reactor_.post([this] {
    if (sessions_.mesh) actor::tell(sessions_.mesh, Leaving{});
  });
  const bool finished = server_ == nullptr || server_->shutdown(deadline);
  if (admin_ != nullptr) admin_->shutdown(0);
  return finished;
}

}  // namespace fulgur::router
