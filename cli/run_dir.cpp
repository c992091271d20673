#include "cli/run_dir.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <utility>

namespace fulgur::cli {
namespace {

namespace fs = std::filesystem;

// A Unix socket address has room for 107 characters; the longest socket name here is 24.
constexpr std::size_t kPathMax = 80;

std::string parent_directory() {
  const std::string leaf = "/fulgur-" + std::to_string(getuid());
  const char* const runtime = std::getenv("XDG_RUNTIME_DIR");
  if (runtime != nullptr && *runtime != '\0') {
    std::error_code ignored;
    const std::string path = runtime + leaf;
    if (path.size() + 16 <= kPathMax && fs::is_directory(runtime, ignored)) return path;
  }
  return "/tmp" + leaf;
}

int open_lock(const std::string& parent, std::uint16_t port, int flags) {
  const std::string path = parent + "/mesh-" + std::to_string(port) + ".lock";
  return open(path.c_str(), flags | O_RDWR | O_CLOEXEC | O_NOFOLLOW, 0600);
}

}  // namespace

RunDir::RunDir(std::uint16_t port)
    : port_(port), parent_(parent_directory()), path_(parent_ + "/mesh-" + std::to_string(port)) {}

RunDir::RunDir(RunDir&& other) noexcept
    : port_(other.port_),
      parent_(std::move(other.parent_)),
      path_(std::move(other.path_)),
      lock_(std::exchange(other.lock_, -1)) {}

RunDir::~RunDir() {
  if (lock_ >= 0) close(lock_);
}

RunDir RunDir::of(std::uint16_t port) { return RunDir(port); }

// The parent may be in /tmp: it must be ours alone, or somebody else could put sockets there.
Status RunDir::make_private_directory() const {
  if (mkdir(parent_.c_str(), 0700) != 0 && errno != EEXIST)
    return error(Code::unavailable, "cannot create {}: {}", parent_, std::strerror(errno));
  struct stat info {};
  if (lstat(parent_.c_str(), &info) != 0 || !S_ISDIR(info.st_mode) || info.st_uid != getuid() ||
      (info.st_mode & 0077) != 0)
    return error(Code::failed_precondition, "{} is not a private directory of this user", parent_);
  return Status::ok();
}

Result<RunDir> RunDir::claim(std::uint16_t port) {
  RunDir dir(port);
  FULGUR_RETURN_IF_ERROR(dir.make_private_directory());
  dir.lock_ = open_lock(dir.parent_, port, O_CREAT);
  if (dir.lock_ < 0)
    return error(Code::unavailable, "cannot open the lock of {}: {}", dir.path_,
                 std::strerror(errno));
  if (flock(dir.lock_, LOCK_EX | LOCK_NB) != 0)
    return error(Code::failed_precondition,
                 "a mesh already runs on port {} (end it with: fulgur down --port {})", port, port);
  std::error_code failure;
  fs::remove_all(dir.path_, failure);
  if (failure || mkdir(dir.path_.c_str(), 0700) != 0)
    return error(Code::unavailable, "cannot create {}: {}", dir.path_, std::strerror(errno));
  return dir;
}

bool RunDir::in_use() const {
  const int fd = open_lock(parent_, port_, 0);
  if (fd < 0) return false;
  const bool taken = flock(fd, LOCK_SH | LOCK_NB) != 0;
  close(fd);
  return taken;
}

std::string RunDir::socket_endpoint(const std::string& name) const {
  return "ipc://" + path_ + "/" + name + ".sock";
}

Status RunDir::write(const MeshRecord& record) const {
  nlohmann::json services = nlohmann::json::array();
  for (const auto& service : record.services)
    services.push_back({{"kind", service.kind},
                        {"name", service.name},
                        {"pid", service.pid},
                        {"endpoint", service.endpoint},
                        {"log", service.log}});
  const nlohmann::json json = {{"port", record.port},
                               {"host", record.host},
                               {"model", record.model},
                               {"supervisor_pid", record.supervisor_pid},
                               {"orchestrator_admin", record.orchestrator_admin},
                               {"supervisor_admin", record.supervisor_admin},
                               {"services", std::move(services)}};
  const std::string fresh = path_ + "/mesh.json.new";
  std::ofstream file(fresh, std::ios::trunc);
  file << json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) << '\n';
  file.close();
  if (!file || std::rename(fresh.c_str(), (path_ + "/mesh.json").c_str()) != 0)
    return error(Code::unavailable, "cannot write {}/mesh.json", path_);
  return Status::ok();
}

Result<MeshRecord> RunDir::read() const {
  if (!in_use()) return error(Code::not_found, "no mesh runs on port {}", port_);
  std::ifstream file(path_ + "/mesh.json");
  const auto json = nlohmann::json::parse(file, nullptr, false);
  if (!json.is_object())
    return error(Code::not_found, "the mesh on port {} is just starting", port_);
  MeshRecord record;
  record.port = port_;
  record.host = json.value("host", "");
  record.model = json.value("model", "");
  record.supervisor_pid = json.value("supervisor_pid", 0);
  record.orchestrator_admin = json.value("orchestrator_admin", "");
  record.supervisor_admin = json.value("supervisor_admin", "");
  for (const auto& service : json.value("services", nlohmann::json::array()))
    record.services.push_back({service.value("kind", ""), service.value("name", ""),
                               service.value("pid", 0), service.value("endpoint", ""),
                               service.value("log", "")});
  return record;
}

void RunDir::remove() const {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

}  // namespace fulgur::cli
