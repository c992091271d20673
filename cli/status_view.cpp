#include "cli/status_view.hpp"

#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>
#include <vector>

namespace fulgur::cli {
namespace {

using nlohmann::json;
using Row = std::array<std::string, 8>;

constexpr std::array<std::string_view, 7> kFields = {"kind",  "name",     "pid", "endpoint",
                                                     "epoch", "replicas", "load"};
constexpr std::array<std::string_view, 2> kOptionalFields = {"state", "slow"};

Result<json> parse_mesh(const std::string& text) {
  json mesh = json::parse(text, nullptr, false);
  if (!mesh.is_object() || !mesh.contains("services") || !mesh["services"].is_array())
    return Status(Code::data_loss, "the orchestrator's answer is not a mesh view");
  return mesh;
}

std::uint64_t number(const json& object, const char* key) {
  const auto found = object.find(key);
  return found != object.end() && found->is_number_unsigned() ? found->get<std::uint64_t>() : 0;
}

/// The numbers that say most about a service of this kind.
std::string describe_load(const std::string& kind, const json& load) {
  if (kind == "attention")
    return fmt::format("{} running, {} waiting, {} tokens", number(load, "running"),
                       number(load, "waiting"), number(load, "tokens_total"));
  if (kind == "expert")
    return fmt::format("{} queued, {} rows, {:.1f} MiB", number(load, "queue_depth"),
                       number(load, "tokens_total"),
                       static_cast<double>(number(load, "held_bytes")) / (1 << 20));
  if (kind == "router")
    return fmt::format("{} running, {} requests", number(load, "running"),
                       number(load, "requests_total"));
  return "";
}

/// "alive", "draining", …, and what shards say about a worker.
std::string describe_state(const json& service) {
  std::string state = service.value("state", "");
  if (service.value("slow", false)) state += ", slow";
  const json cut = service.value("unreachable_by", json::array());
  if (cut.is_array() && !cut.empty() && cut[0].is_string())
    state += ", unreachable by " + cut[0].get<std::string>();
  return state;
}

/// "experts: 2 serve, 3 wanted (busy 0.81)".
std::string describe_pools(const json& mesh) {
  std::string text;
  for (const auto& pool : mesh.value("pools", json::array()))
    text += fmt::format("{}: {} serve, {} wanted ({}; busy {:.2f}, wait {:.1f} ms)\n",
                        pool.value("pool", ""), number(pool, "replicas"), number(pool, "wanted"),
                        pool.value("reason", ""), pool.value("busy", 0.0),
                        pool.value("wait_ms", 0.0));
  return text;
}

Row make_row(const json& service) {
  const std::string kind = service.value("kind", "");
  return {kind,
          service.value("name", ""),
          std::to_string(number(service, "pid")),
          describe_state(service),
          std::to_string(number(service, "epoch")),
          kind == "expert" ? std::to_string(number(service, "replicas")) : "-",
          describe_load(kind, service.value("load", json::object())),
          service.value("admin", "")};
}

std::string format_rows(const std::vector<Row>& rows) {
  std::array<std::size_t, 8> widths{};
  for (const Row& row : rows)
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], row[i].size());
  std::string text;
  for (const Row& row : rows) {
    std::string line;
    for (std::size_t i = 0; i < row.size(); ++i) line += fmt::format("{:<{}}  ", row[i], widths[i]);
    text += line.substr(0, line.find_last_not_of(' ') + 1) + "\n";
  }
  return text;
}

}  // namespace

Result<std::string> status_json(const std::string& mesh_json) {
  FULGUR_ASSIGN_OR_RETURN(const json mesh, parse_mesh(mesh_json));
  json services = json::array();
  for (const auto& service : mesh["services"]) {
    json shown = json::object();
    for (const std::string_view field : kFields)
      shown[std::string(field)] = service.value(std::string(field), json());
    for (const std::string_view field : kOptionalFields)
      if (service.contains(field)) shown[std::string(field)] = service[std::string(field)];
    services.push_back(std::move(shown));
  }
  return json{{"services", std::move(services)}, {"pools", mesh.value("pools", json::array())}}.dump(-1, ' ', false,
                                                      json::error_handler_t::replace);
}

Result<std::string> status_table(const std::string& mesh_json, const MeshRecord& record) {
  FULGUR_ASSIGN_OR_RETURN(const json mesh, parse_mesh(mesh_json));
  std::vector<Row> rows{{"KIND", "NAME", "PID", "STATE", "EPOCH", "REPLICAS", "LOAD", "ADMIN"}};
  for (const auto& service : mesh["services"]) rows.push_back(make_row(service));
  std::string text = format_rows(rows) + describe_pools(mesh);
  const std::string problem = mesh.value("problem", "");
  text +=
      mesh.value("ready", false)
          ? fmt::format("serving {} on http://{}:{}, epoch {}, {} replicas of every expert{}{}\n",
                        record.model, record.host, record.port, number(mesh, "epoch"),
                        number(mesh, "replicas"), problem.empty() ? "" : "; ", problem)
          : fmt::format("not ready: {}\n", problem);
  return text;
}

std::string mesh_json_from_record(const MeshRecord& record) {
  json services = json::array();
  for (const auto& service : record.services)
    services.push_back({{"kind", service.kind},
                        {"name", service.name},
                        {"pid", service.pid},
                        {"endpoint", service.endpoint},
                        {"epoch", 0},
                        {"replicas", 0},
                        {"load", json::object()},
                        {"state", "unknown"}});
  return json{
      {"services", std::move(services)},
      {"ready", false},
      {"problem", "the orchestrator does not answer; running traffic is served all the same"}}
      .dump(-1, ' ', false, json::error_handler_t::replace);
}

}  // namespace fulgur::cli
