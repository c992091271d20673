// The run directory of a mesh started by `fulgur up`: ${XDG_RUNTIME_DIR:-/tmp}/fulgur-UID/mesh-PORT
// with mesh.json, the services' sockets and one log a service. A lock beside it, held by the
// supervising process for its whole life, tells a living mesh from what a dead one left behind.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "common/base/status.hpp"

namespace fulgur::cli {

struct ServiceRecord {
  std::string kind;
  std::string name;
  pid_t pid = 0;
  std::string endpoint;
  std::string log;
  friend bool operator==(const ServiceRecord&, const ServiceRecord&) = default;
};

/// Contents of mesh.json.
struct MeshRecord {
  std::uint16_t port = 0;
  std::string host;
  std::string model;
  pid_t supervisor_pid = 0;
  std::string orchestrator_admin;  ///< "host:port"
  std::string supervisor_admin;    ///< "host:port", takes POST /v1/scale
  std::vector<ServiceRecord> services;
  friend bool operator==(const MeshRecord&, const MeshRecord&) = default;
};

class RunDir {
 public:
  /// Takes the place of the mesh on `port`, wiping what a dead one left. failed_precondition when
  /// one lives there.
  static Result<RunDir> claim(std::uint16_t port);
  /// Looks at the place without claiming it.
  static RunDir of(std::uint16_t port);

  RunDir(RunDir&& other) noexcept;
  RunDir& operator=(RunDir&&) = delete;
  RunDir(const RunDir&) = delete;
  ~RunDir();

  const std::string& path() const { return path_; }
  /// "ipc://…/NAME.sock".
  std::string socket_endpoint(const std::string& name) const;
  std::string log_path(const std::string& name) const { return path_ + "/" + name + ".log"; }

  /// Whether a process holds the place.
  bool in_use() const;
  /// not_found when no mesh lives there or it has written nothing yet.
  Result<MeshRecord> read() const;
  /// Replaces mesh.json in one step.
  Status write(const MeshRecord& record) const;
  /// Deletes the directory; the place stays claimed until destruction.
  void remove() const;

 private:
  explicit RunDir(std::uint16_t port);
  Status make_private_directory() const;

  std::uint16_t port_;
  std::string parent_;
  std::string path_;
  int lock_ = -1;
};

}  // namespace fulgur::cli
