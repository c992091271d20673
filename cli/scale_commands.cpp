// fulgur drain, undrain and scale: change who serves while it serves. The orchestrator decides who
// may leave, the supervising process starts who comes.
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>

#include "cli/commands.hpp"
#include "cli/http_client.hpp"
#include "cli/run_dir.hpp"

namespace fulgur::cli {
namespace {

using nlohmann::json;

constexpr useconds_t kPollPeriod_us = 50'000;
constexpr Nanoseconds kPatience = 10 * kSecond;

/// The error of an answer that is not 200, as one line.
Status refusal(const HttpResponse& answer) {
  const json body = json::parse(answer.body, nullptr, false);
  const std::string why = body.is_object() ? body.value("error", "") : "";
  return error(Code::failed_precondition, "{}",
               why.empty() ? fmt::format("the mesh answered {}", answer.status) : why);
}

Status post(const std::string& admin, const std::string& path, const json& command) {
  HttpClient client("http://" + admin);
  FULGUR_ASSIGN_OR_RETURN(const auto answer, client.post(path, command.dump(), kPatience));
  return answer.status == 200 ? Status::ok() : refusal(answer);
}

/// A mesh seen through its run directory; processes come and go, so every look reads it again.
class Control {
 public:
  explicit Control(std::uint16_t port) : dir_(RunDir::of(port)) {}

  Result<MeshRecord> record() const { return dir_.read(); }

  /// Members by name with their state, as the orchestrator has them; nothing while it is away.
  std::optional<json> members() const {
    const auto record = dir_.read();
    if (!record.is_ok()) return std::nullopt;
    HttpClient client("http://" + record->orchestrator_admin);
    const auto answer = client.get("/admin/state", 2 * kSecond);
    if (!answer.is_ok() || answer->status != 200) return std::nullopt;
    const json state = json::parse(answer->body, nullptr, false);
    if (!state.is_object() || !state.contains("services")) return std::nullopt;
    json members = json::object();
    for (const json& service : state["services"]) members[service.value("name", "")] = service;
    return members;
  }

  Status drain(const std::vector<std::string>& names) const {
    FULGUR_ASSIGN_OR_RETURN(const auto record, dir_.read());
    return post(record.orchestrator_admin, "/admin/drain", {{"names", names}});
  }

  /// Until none of `names` is a member and their processes are gone. A drain that an orchestrator
  /// forgot by starting again is asked for again.
  Status wait_until_gone(const std::vector<std::string>& names, double timeout_s) const {
    const RealClock clock;
    const Nanoseconds end = clock.now() + static_cast<Nanoseconds>(timeout_s * kSecond);
    while (true) {
      std::string left;
      if (const auto present = members()) {
        for (const std::string& name : names) {
          if (!present->contains(name)) continue;
          left = name;
          if ((*present)[name].value("state", "") == "alive")
            FULGUR_RETURN_IF_ERROR(drain({name}));
        }
        if (left.empty()) return Status::ok();
      }
      if (clock.now() >= end)
        return error(Code::deadline_exceeded, "{} still drains; it goes on doing so",
                     left.empty() ? names.front() : left);
      usleep(kPollPeriod_us);
    }
  }

  /// Until numbers 0 to `count` - 1 of `kind` serve: those that stay, before others go.
  Status wait_until_serving(const std::string& kind, std::uint32_t count, double timeout_s) const {
    const RealClock clock;
    const Nanoseconds end = clock.now() + static_cast<Nanoseconds>(timeout_s * kSecond);
    while (true) {
      std::uint32_t serving = 0;
      const auto present = members();
      for (std::uint32_t i = 0; present && i < count; ++i) {
        const json member = present->value(fmt::format("{}-{}", kind, i), json::object());
        serving += member.value("state", "") == "alive" &&
                   (kind != "expert" || member.value("replicas", 0) > 0);
      }
      if (serving >= count) return Status::ok();
      if (clock.now() >= end)
        return error(Code::deadline_exceeded, "{} of {} {} services serve by now", serving, count,
                     kind);
      usleep(kPollPeriod_us);
    }
  }

 private:
  RunDir dir_;
};

std::uint32_t ordinal(const std::string& name) {
  const auto dash = name.rfind('-');
  return static_cast<std::uint32_t>(std::strtoul(name.c_str() + dash + 1, nullptr, 10));
}

/// Services of `kind` with numbers from `count` on, the highest first.
std::vector<std::string> surplus(const MeshRecord& record, const std::string& kind,
                                 std::uint32_t count) {
  std::vector<std::string> names;
  for (const auto& service : record.services)
    if (service.kind == kind && ordinal(service.name) >= count) names.push_back(service.name);
  std::sort(names.begin(), names.end(),
            [](const auto& a, const auto& b) { return ordinal(a) > ordinal(b); });
  return names;
}

Status scale(const Control& mesh, const ScaleOptions& options) {
  const std::string kind = options.pool == "experts" ? "expert" : "attention";
  FULGUR_ASSIGN_OR_RETURN(const auto record, mesh.record());
  // Who is missing starts before anybody goes; a size that cannot be is refused before both.
  FULGUR_RETURN_IF_ERROR(
      post(record.supervisor_admin, "/v1/scale", {{"kind", kind}, {"count", options.count}}));
  FULGUR_RETURN_IF_ERROR(mesh.wait_until_serving(kind, options.count, options.timeout_s));
  const auto names = surplus(record, kind, options.count);
  if (!names.empty()) {
    FULGUR_RETURN_IF_ERROR(mesh.drain(names));
    FULGUR_RETURN_IF_ERROR(mesh.wait_until_gone(names, options.timeout_s));
  }
  std::printf("%s: %u\n", options.pool.c_str(), options.count);
  return Status::ok();
}

Status drain(const Control& mesh, const DrainOptions& options) {
  FULGUR_ASSIGN_OR_RETURN(const auto record, mesh.record());
  if (options.undo) {
    FULGUR_RETURN_IF_ERROR(
        post(record.orchestrator_admin, "/admin/undrain", {{"name", options.name}}));
    std::printf("%s drains no more\n", options.name.c_str());
    return Status::ok();
  }
  FULGUR_RETURN_IF_ERROR(mesh.drain({options.name}));
  FULGUR_RETURN_IF_ERROR(mesh.wait_until_gone({options.name}, options.timeout_s));
  std::printf("%s has drained and left\n", options.name.c_str());
  return Status::ok();
}

}  // namespace

int run(const DrainOptions& options) {
  const Status done = drain(Control(options.port), options);
  return done.is_ok() ? 0 : fail(done);
}

int run(const ScaleOptions& options) {
  const Status done = scale(Control(options.port), options);
  return done.is_ok() ? 0 : fail(done);
}

}  // namespace fulgur::cli
