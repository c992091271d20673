#include "services/orchestrator/admin_api.hpp"

#include <nlohmann/json.hpp>

namespace fulgur::orchestrator {
namespace {

using nlohmann::json;

constexpr std::size_t kNamesMax = 4096;

void answer(const http::Responder& responder, int status, const json& body) {
  responder.respond(status, "application/json",
                    body.dump(-1, ' ', false, json::error_handler_t::replace) + "\n");
}

void answer(const http::Responder& responder, const Status& why) {
  if (why.is_ok()) return answer(responder, 200, {{"ok", true}});
  answer(responder, http_status(why.code()), {{"error", why.message()}});
}

http::Handler show_mesh(const actor::Handle& orchestrator) {
  return [orchestrator](http::Request, http::Responder responder) {
    actor::tell(orchestrator, MeshQuery{[responder](std::string mesh) {
                  responder.respond(200, "application/json", std::move(mesh));
                }});
  };
}

http::Handler command(const actor::Handle& orchestrator, DrainCommand::Kind kind) {
  return [orchestrator, kind](http::Request request, http::Responder responder) {
    if (!request.header("content-type").starts_with("application/json"))
      return answer(responder, Status(Code::invalid_argument,
                                      "the content type of a command must be application/json"));
    auto names = parse_names(request.body);
    if (!names.is_ok()) return answer(responder, names.status());
    actor::tell(orchestrator,
                DrainCommand{kind, std::move(*names), [responder](const Status& done) {
                               answer(responder, done);
                             }});
  };
}

}  // namespace

Result<std::vector<std::string>> parse_names(const std::string& body) {
  constexpr auto kInvalid = Code::invalid_argument;
  const json command = json::parse(body, nullptr, false);
  if (!command.is_object()) return Status(kInvalid, "the body is not a JSON object");
  json names = json::array();
  for (const auto& [key, value] : command.items()) {
    if (key == "name")
      names.push_back(value);
    else if (key == "names" && value.is_array())
      names.insert(names.end(), value.begin(), value.end());
    else
      return error(kInvalid, "field {} is not known: give name or names", key);
  }
  if (names.empty() || names.size() > kNamesMax)
    return error(kInvalid, "{} names are given, 1 to {} are possible", names.size(), kNamesMax);
  std::vector<std::string> result;
  for (const json& name : names) {
    if (!name.is_string() || name.get_ref<const std::string&>().empty())
      return Status(kInvalid, "a name must be a string that is not empty");
    result.push_back(name);
  }
  return result;
}

int http_status(Code code) {
  switch (code) {
    case Code::ok:
      return 200;
    case Code::invalid_argument:
      return 400;
    case Code::not_found:
      return 404;
    case Code::unavailable:
      return 503;
    default:
      return 409;
  }
}

void add_admin_api(http::Server& server, const actor::Handle& orchestrator) {
  server.handle("GET", "/v1/mesh", show_mesh(orchestrator));
  server.handle("GET", "/admin/state", show_mesh(orchestrator));
  server.handle("POST", "/admin/drain", command(orchestrator, DrainCommand::Kind::drain));
  server.handle("POST", "/admin/undrain", command(orchestrator, DrainCommand::Kind::undrain));
}

}  // namespace fulgur::orchestrator
