// fulgur status and fulgur down: look at, and end, a mesh that `fulgur up` started.
#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "cli/commands.hpp"
#include "cli/http_client.hpp"
#include "cli/run_dir.hpp"
#include "cli/status_view.hpp"
#include "common/base/clock.hpp"

namespace fulgur::cli {
namespace {

constexpr useconds_t kPollPeriod_us = 50'000;

/// /v1/mesh, waiting a moment for an orchestrator that is starting again; one that hangs costs no more.
Result<std::string> fetch_mesh(const RunDir& dir) {
  constexpr Nanoseconds kPatience = 3 * kSecond;
  const RealClock clock;
  const Nanoseconds end = clock.now() + kPatience;
  for (Nanoseconds left = kPatience; left > 0; left = end - clock.now()) {
    FULGUR_ASSIGN_OR_RETURN(const MeshRecord record, dir.read());
    HttpClient orchestrator("http://" + record.orchestrator_admin);
    auto answer = orchestrator.get("/v1/mesh", left);
    if (answer.is_ok() && answer->status == 200) return std::move(answer->body);
    usleep(kPollPeriod_us);
  }
  FULGUR_ASSIGN_OR_RETURN(const MeshRecord record, dir.read());
  return mesh_json_from_record(record);
}

}  // namespace

int run(const StatusOptions& options) {
  const RunDir dir = RunDir::of(options.port);
  const auto record = dir.read();
  if (!record.is_ok()) return fail(record.status());
  const auto mesh = fetch_mesh(dir);
  if (!mesh.is_ok()) return fail(mesh.status());
  const auto text = options.json ? status_json(*mesh) : status_table(*mesh, *record);
  if (!text.is_ok()) return fail(text.status());
  std::printf("%s%s", text->c_str(), options.json ? "\n" : "");
  if (!options.json)
    std::printf("operations page: http://%s/\n", record->orchestrator_admin.c_str());
  return 0;
}

int run(const DownOptions& options) {
  constexpr int kAttempts = 30 * 20;  // half a minute: a drain takes as long as its streams
  const RunDir dir = RunDir::of(options.port);
  const auto record = dir.read();
  if (!record.is_ok()) return fail(record.status());
  if (kill(record->supervisor_pid, SIGTERM) != 0)
    return fail(error(Code::unavailable, "cannot signal process {}: {}", record->supervisor_pid,
                      std::strerror(errno)));
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    if (!dir.in_use()) {
      std::printf("the mesh on port %u has ended\n", unsigned{options.port});
      return 0;
    }
    usleep(kPollPeriod_us);
  }
  return fail(error(Code::deadline_exceeded, "the mesh on port {} (process {}) has not ended yet",
                    options.port, record->supervisor_pid));
}

}  // namespace fulgur::cli
