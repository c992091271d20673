#include "common/http/admin_routes.hpp"

#include <utility>

namespace fulgur::http {
namespace {

constexpr std::string_view kText = "text/plain; charset=utf-8";

}  // namespace

void add_admin_routes(Server& server, AdminSources sources) {
  server.handle("GET", "/healthz", [](Request, Responder responder) {
    responder.respond(200, kText, "ok\n");
  });
  server.handle("GET", "/readyz",
                [readiness = std::move(sources.readiness)](Request, Responder responder) {
                  const Readiness now = readiness ? readiness() : Readiness{};
                  responder.respond(now.ready ? 200 : 503, kText, now.reason + "\n");
                });
  server.handle("GET", "/metrics",
                [metrics = std::move(sources.metrics)](Request, Responder responder) {
                  responder.respond(200, "text/plain; version=0.0.4; charset=utf-8",
                                    metrics ? metrics() : std::string());
                });
}

}  // namespace fulgur::http
