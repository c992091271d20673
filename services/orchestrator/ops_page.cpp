#include "services/orchestrator/ops_page.hpp"

#include <fmt/format.h>

#include "services/orchestrator/ops_files.hpp"

namespace fulgur::orchestrator {
namespace {

constexpr std::string_view kText = "text/plain; charset=utf-8";
// Nothing but our own files runs or is drawn, and nobody may frame the page.
constexpr const char* kContentPolicy =
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

std::string_view content_type(std::string_view name) {
  if (name.ends_with(".html")) return "text/html; charset=utf-8";
  if (name.ends_with(".css")) return "text/css; charset=utf-8";
  if (name.ends_with(".js")) return "text/javascript; charset=utf-8";
  if (name.ends_with(".svg")) return "image/svg+xml";
  return kText;
}

/// Always asked for again, answered 304 while it has not changed: names carry no version.
http::Handler show_file(const http::EmbeddedFile& file) {
  const std::string tag = fmt::format("\"{:016x}\"", std::hash<std::string_view>{}(file.bytes));
  const std::vector<http::Header> headers{{"Cache-Control", "no-cache"},
                                          {"ETag", tag},
                                          {"X-Content-Type-Options", "nosniff"},
                                          {"Referrer-Policy", "no-referrer"},
                                          {"Content-Security-Policy", kContentPolicy}};
  return [file, tag, headers](const http::Request& request, const http::Responder& responder) {
    if (request.header("if-none-match") == tag) return responder.respond(304, "", "", headers);
    responder.respond(200, content_type(file.name), std::string(file.bytes), headers);
  };
}

class HttpWatcher final : public Watcher {
 public:
  explicit HttpWatcher(http::Responder responder) : responder_(std::move(responder)) {}
  void refuse() override {
    responder_.respond(503, kText, "too many watch the mesh\n", {{"Retry-After", "5"}});
  }
  void open() override {
    responder_.start_stream(200, "text/event-stream",
                            {{"Cache-Control", "no-store"}, {"X-Accel-Buffering", "no"}});
  }
  Status write(std::string_view bytes) override { return responder_.write(bytes); }
  void finish() override { responder_.finish(); }
  void drop() override { responder_.abort(); }
  bool gone() const override { return responder_.disconnected(); }

 private:
  http::Responder responder_;
};

http::Handler show_events(const actor::Handle& orchestrator) {
  return [orchestrator](const http::Request& request, const http::Responder& responder) {
    if (request.method == "HEAD") return responder.respond(200, "text/event-stream", "");
    const auto since = query_value(request.query, "since");
    std::string_view from = request.header("last-event-id");
    if (from.empty() && since) from = *since;
    const auto position = parse_position(from);
    if (!position.is_ok()) return responder.respond(400, kText, position.status().message() + "\n");
    const bool wants_stream =
        request.header("accept").find("text/event-stream") != std::string_view::npos;
    if (since && !wants_stream)
      return actor::tell(orchestrator, EventsQuery{*position, [responder](std::string events) {
                                                     responder.respond(200, "application/json",
                                                                       std::move(events));
                                                   }});
    actor::tell(orchestrator, WatchCommand{std::make_shared<HttpWatcher>(responder), *position});
  };
}

}  // namespace

std::optional<std::string> query_value(std::string_view query, std::string_view key) {
  while (!query.empty()) {
    const std::size_t end = std::min(query.find('&'), query.size());
    const std::string_view pair = query.substr(0, end);
    const std::size_t equals = std::min(pair.find('='), pair.size());
    if (pair.substr(0, equals) == key)
      return std::string(pair.substr(std::min(equals + 1, pair.size())));
    query.remove_prefix(std::min(end + 1, query.size()));
  }
  return std::nullopt;
}

void add_ops_page(http::Server& server, const actor::Handle& orchestrator) {
  for (const http::EmbeddedFile& file : kOpsFiles) {
    const std::string path = file.name == "index.html" ? "/" : fmt::format("/ops/{}", file.name);
    server.handle("GET", path, show_file(file));
  }
  server.handle("GET", "/ops", [](const http::Request&, const http::Responder& responder) {
    responder.respond(308, kText, "see /\n", {{"Location", "/"}});
  });
  server.handle("GET", "/v1/events", show_events(orchestrator));
}

}  // namespace fulgur::orchestrator
