#include "tests/integration/mesh.hpp"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "cli/child.hpp"
#include "cli/http_client.hpp"
#include "cli/supervision.hpp"

namespace fulgur::integration {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

/// Run directories of the meshes under test go to a directory of this process.
class ScratchDirectory : public testing::Environment {
 public:
  void SetUp() override {
    char name[] = "/tmp/fulgur-it-XXXXXX";
    path_ = mkdtemp(name);
    setenv("XDG_RUNTIME_DIR", path_.c_str(), 1);
  }
  void TearDown() override { fs::remove_all(path_); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

ScratchDirectory& scratch() {
  static auto* const directory = new ScratchDirectory;  // googletest owns environments
  return *directory;
}
[[maybe_unused]] const testing::Environment* const registered =
    testing::AddGlobalTestEnvironment(&scratch());

std::string read_file(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

/// Reaps `pid` if it has ended by now.
bool reaped(pid_t pid, int& wait_status) { return waitpid(pid, &wait_status, WNOHANG) == pid; }

int exit_code(int wait_status) {
  return WIFEXITED(wait_status) ? WEXITSTATUS(wait_status) : 128 + WTERMSIG(wait_status);
}

}  // namespace

bool long_mode() { return std::getenv("FULGUR_LONG") != nullptr; }
std::string tiny_model() { return FULGUR_SOURCE_DIR "/models/fulgur-tiny"; }
std::string program(const std::string& name) { return FULGUR_BINARY_DIR "/" + name; }

std::string scratch_path(const std::string& leaf) {
  static int count = 0;
  return scratch().path() + "/" + std::to_string(count++) + "-" + leaf;
}

Finished run_program(const std::string& path, const std::vector<std::string>& arguments,
                     Nanoseconds patience) {
  const std::string log = scratch_path("output");
  const auto pid = cli::spawn(path, arguments, log);
  if (!pid.is_ok()) return {-1, pid.status().message()};
  int wait_status = 0;
  if (!eventually([&] { return reaped(*pid, wait_status); }, patience)) {
    kill(*pid, SIGKILL);
    waitpid(*pid, &wait_status, 0);
  }
  return {exit_code(wait_status), read_file(log)};
}

double metric(const std::string& admin, const std::string& name, const std::string& label) {
  cli::HttpClient client("http://" + admin);
  const auto answer = client.get("/metrics", 5 * kSecond);
  if (!answer.is_ok() || answer->status != 200) return -1;
  std::istringstream lines(answer->body);
  double sum = -1;
  for (std::string line; std::getline(lines, line);) {
    const bool named = line.starts_with(name + " ") || line.starts_with(name + "{");
    if (named && line.find(label) != std::string::npos)
      sum = std::max(sum, 0.0) + std::stod(line.substr(line.rfind(' ')));
  }
  return sum;
}

Mesh::Mesh(MeshFlags flags)
    : flags_(std::move(flags)), port_(cli::free_port()), log_(scratch_path("up")) {}

Mesh::~Mesh() {
  if (pid_ == 0) return;
  for (const pid_t pid : pids()) kill(pid, SIGKILL);
  waitpid(pid_, nullptr, 0);
}

Status Mesh::start() {
  std::vector<std::string> arguments = {"up",
                                        "--quiet",
                                        "--no-demo",
                                        "--model",
                                        flags_.model,
                                        "--port",
                                        std::to_string(port_),
                                        "--experts",
                                        std::to_string(flags_.experts),
                                        "--attention",
                                        std::to_string(flags_.attention),
                                        "--transport",
                                        flags_.transport,
                                        "--activations",
                                        flags_.activations};
  arguments.insert(arguments.end(), flags_.more.begin(), flags_.more.end());
  if (flags_.curve) arguments.emplace_back("--curve");
  FULGUR_ASSIGN_OR_RETURN(pid_, cli::spawn(program("fulgur"), arguments, log_));
  int wait_status = 0;
  bool ended = false;
  const bool whole = eventually([&] {
    ended = reaped(pid_, wait_status);
    return ended || is_whole();
  });
  if (ended) {
    pid_ = 0;
    return error(Code::unavailable, "fulgur up {}: {}", cli::describe_exit(wait_status),
                 read_file(log_));
  }
  if (!whole) return error(Code::deadline_exceeded, "the mesh is not whole: {}", view().dump());
  return Status::ok();
}

int Mesh::stop(int signal) {
  kill(pid_, signal);
  int wait_status = 0;
  if (!eventually([&] { return reaped(pid_, wait_status); })) return -1;
  pid_ = 0;
  return exit_code(wait_status);
}

std::vector<pid_t> Mesh::pids() const {
  std::vector<pid_t> pids{pid_};
  const auto record = dir().read();
  if (record.is_ok())
    for (const auto& service : record->services)
      if (service.pid != 0) pids.push_back(service.pid);
  return pids;
}

pid_t Mesh::pid_of(const std::string& service) const {
  const auto record = dir().read();
  if (record.is_ok())
    for (const auto& recorded : record->services)
      if (recorded.name == service) return recorded.pid;
  return 0;
}

json Mesh::view() const {
  const auto record = dir().read();
  if (!record.is_ok()) return nullptr;
  cli::HttpClient client("http://" + record->orchestrator_admin);
  const auto answer = client.get("/v1/mesh", 5 * kSecond);
  if (!answer.is_ok() || answer->status != 200) return nullptr;
  return json::parse(answer->body, nullptr, false);
}

std::uint64_t Mesh::epoch() const {
  const json mesh = view();
  return mesh.is_object() ? mesh.value("epoch", std::uint64_t{0}) : 0;
}

std::string Mesh::admin_of(const std::string& service) const {
  const json mesh = view();
  if (mesh.is_object())
    for (const json& entry : mesh["services"])
      if (entry["name"] == service) return entry["admin"];
  return "";
}

bool Mesh::is_whole() const {
  const json mesh = view();
  if (!mesh.is_object() || !mesh.value("ready", false) || mesh["phase"] != "idle") return false;
  if (mesh["replicas"] != std::min(flags_.experts, 2U)) return false;
  std::uint32_t present = 0;
  // A process that is gone stands in both records until its parent and the orchestrator have
  // noticed.
  for (const json& service : mesh["services"]) {
    const pid_t pid = pid_of(service["name"]);
    present += service["state"] == "alive" && service["pid"] == pid && kill(pid, 0) == 0;
  }
  if (present != service_count()) return false;
  cli::HttpClient api(url());
  const auto readiness = api.get("/readyz", 5 * kSecond);
  return readiness.is_ok() && readiness->status == 200;
}

void Mesh::kill_service(const std::string& service) {
  const pid_t pid = pid_of(service);
  ASSERT_GT(pid, 0) << service;
  ASSERT_EQ(kill(pid, SIGKILL), 0) << service;
  ASSERT_TRUE(eventually([&] { return kill(pid, 0) != 0; })) << service;  // reaped by its parent
}

}  // namespace fulgur::integration
