#include "cli/scale_control.hpp"

#include <nlohmann/json.hpp>
#include <utility>

namespace fulgur::cli {
namespace {

using nlohmann::json;

constexpr std::size_t kWaitingMax = 64;

void refuse(const http::Responder& responder, int status, const std::string& why) {
  responder.respond(status, "application/json", json{{"error", why}}.dump());
}

}  // namespace

Result<ScaleRequest> parse_scale_request(const std::string& body) {
  constexpr auto kInvalid = Code::invalid_argument;
  const json request = json::parse(body, nullptr, false);
  if (!request.is_object() || request.size() != 2 || !request.contains("kind") ||
      !request.contains("count"))
    return Status(kInvalid, "a scale request has the fields kind and count");
  const json& kind = request["kind"];
  if (kind != "expert" && kind != "attention")
    return error(kInvalid, "kind is {}, not \"expert\" or \"attention\"",
                 kind.dump(-1, ' ', true, json::error_handler_t::replace));
  const json& count = request["count"];
  if (!count.is_number_unsigned() || count == 0U || count > 4096U)
    return error(kInvalid, "count is {}, not a number from 1 to 4096",
                 count.dump(-1, ' ', true, json::error_handler_t::replace));
  return ScaleRequest{kind.get<std::string>(), count.get<std::uint32_t>()};
}

Result<std::unique_ptr<ScaleControl>> ScaleControl::start() {
  std::unique_ptr<ScaleControl> control(new ScaleControl());
  http::ServerOptions options;
  options.connections_max = kWaitingMax;
  options.body_bytes_max = 4096;
  FULGUR_ASSIGN_OR_RETURN(control->server_, http::Server::listen("127.0.0.1", 0, options));
  control->server_->handle("POST", "/v1/scale",
                           [raw = control.get()](http::Request request, http::Responder responder) {
                             raw->receive(request, std::move(responder));
                           });
  control->server_->start();
  return control;
}

ScaleControl::~ScaleControl() {
  if (server_) server_->shutdown(0);
}

void ScaleControl::receive(const http::Request& request, http::Responder responder) {
  if (!request.header("content-type").starts_with("application/json"))
    return refuse(responder, 400, "the content type of a command must be application/json");
  auto parsed = parse_scale_request(request.body);
  if (!parsed.is_ok()) return refuse(responder, 400, parsed.status().message());
  const std::lock_guard lock(mutex_);
  if (waiting_.size() >= kWaitingMax) return refuse(responder, 503, "too many requests wait");
  waiting_.push_back({std::move(*parsed), std::move(responder)});
}

void ScaleControl::serve(const Scale& scale) {
  std::vector<Waiting> waiting;
  {
    const std::lock_guard lock(mutex_);
    waiting.swap(waiting_);
  }
  for (const auto& [request, responder] : waiting) {
    const auto started = scale(request);
    if (started.is_ok())
      responder.respond(200, "application/json", json{{"started", *started}}.dump());
    else
      refuse(responder, 409, started.status().message());
  }
}

}  // namespace fulgur::cli
