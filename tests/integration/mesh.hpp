// A mesh of real processes as `fulgur up` starts it, for tests: on a free port, with the bundled
// model, in a run directory of the test's own. Start it from the main thread: the processes die
// with the thread that started them.
#pragma once

#include <signal.h>
#include <sys/types.h>
#include <unistd.h>

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "cli/run_dir.hpp"
#include "common/base/clock.hpp"
#include "common/base/status.hpp"

namespace fulgur::integration {

inline constexpr Nanoseconds kPatience = 120 * kSecond;

/// Asks `condition` again and again until it holds; false when it does not within `patience`.
template <class Condition>
bool eventually(const Condition& condition, Nanoseconds patience = kPatience) {
  constexpr useconds_t kPollPeriod_us = 5'000;
  const RealClock clock;
  for (const Nanoseconds end = clock.now() + patience; !condition(); usleep(kPollPeriod_us))
    if (clock.now() > end) return false;
  return true;
}

/// Whether the long versions of tests run (FULGUR_LONG=1).
bool long_mode();

/// models/fulgur-tiny of the source tree.
std::string tiny_model();
/// Path of a built program.
std::string program(const std::string& name);
/// A fresh file name in this test process's own directory, which is removed when it ends.
std::string scratch_path(const std::string& leaf);

/// A program of the mesh run to its end: all it printed on both streams, and its exit code
/// (128 + signal when killed).
struct Finished {
  int exit_code = -1;
  std::string output;
};
Finished run_program(const std::string& path, const std::vector<std::string>& arguments,
                     Nanoseconds patience = kPatience);

/// Sum of all series of a metric, or of those with `label`, e.g. result="moved"; -1 when the process
/// does not answer or has none.
double metric(const std::string& admin, const std::string& name, const std::string& label = "");

struct MeshFlags {
  std::uint32_t experts = 2;
  std::uint32_t attention = 1;
  std::string transport = "auto";
  std::string activations = "bf16";
  bool curve = false;  ///< encrypted links
  std::string model = tiny_model();
  std::vector<std::string> more = {};  ///< flags of `fulgur up`, as they are
};

class Mesh {
 public:
  explicit Mesh(MeshFlags flags = {});
  ~Mesh();  ///< kills what still runs
  Mesh(const Mesh&) = delete;
  Mesh& operator=(const Mesh&) = delete;

  /// Returns once the mesh serves; what the command said when it does not.
  Status start();
  /// Sends the command a signal; returns its exit code.
  int stop(int signal = SIGTERM);

  std::uint16_t port() const { return port_; }
  std::string url() const { return "http://127.0.0.1:" + std::to_string(port_); }
  cli::RunDir dir() const { return cli::RunDir::of(port_); }
  /// Every process of the mesh, the supervising one first.
  std::vector<pid_t> pids() const;
  /// Of one service, as mesh.json has it; 0 when unknown.
  pid_t pid_of(const std::string& service) const;
  /// The orchestrator's /v1/mesh; null while it does not answer.
  nlohmann::json view() const;
  std::uint64_t epoch() const;
  /// Address of a service's /metrics.
  std::string admin_of(const std::string& service) const;
  /// Every service is alive under its present pid, the placement is whole, the API is ready.
  bool is_whole() const;
  /// kill -9 of one service; returns once the process is gone.
  void kill_service(const std::string& service);

 private:
  std::uint32_t service_count() const { return flags_.experts + flags_.attention + 2; }

  MeshFlags flags_;
  std::uint16_t port_;
  std::string log_;
  pid_t pid_ = 0;
};

}  // namespace fulgur::integration
