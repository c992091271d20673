// Keeps the processes of one mesh running: starts them, starts the dead again with back-off, lets
// go of who drained, starts more when asked, writes who runs to mesh.json, and ends all in order.
// One thread owns it and outlives the children.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "cli/child.hpp"
#include "cli/mesh_plan.hpp"
#include "cli/run_dir.hpp"

namespace fulgur::cli {

class Supervision {
 public:
  /// `programs` is the folder of the service programs; the rest outlives this object.
  Supervision(std::string programs, const RunDir& dir, MeshRecord record,
              std::vector<ServicePlan> plans, const Clock& clock);
  ~Supervision();  ///< kills what still runs
  Supervision(const Supervision&) = delete;
  Supervision& operator=(const Supervision&) = delete;

  Status start_all();

  /// Reaps the dead and starts what is due. Before the mesh was ready, a service that exits by
  /// itself is a failure with the service's own last words; after, it is started again, unless it
  /// is a worker or shard that ended well: that one was drained. Once ready, what cannot be done now
  /// (a program that is just being replaced, a full disk) is warned of and tried again.
  Status poll();
  void mesh_is_ready() { ready_ = true; }

  /// Services of `kind` that are kept running.
  std::uint32_t count(const std::string& kind) const;
  bool runs(const std::string& name) const;
  /// Starts one more service and keeps it running; one that does not start is not kept.
  Status add(ServicePlan plan);

  /// SIGTERM, to the router first so that it can drain; SIGKILL to whoever is left after `deadline`
  /// or once `impatient` says so.
  void shut_down(Nanoseconds deadline, const std::function<bool()>& impatient = {});

 private:
  struct Service {
    ServicePlan plan;
    pid_t pid = 0;  ///< 0: not running
    Nanoseconds started_at = 0;
    Nanoseconds restart_at = 0;
    int crashes = 0;  ///< before the mesh was ready
    Backoff backoff;
  };

  Status start(Service& service);
  Status start_again(Service& service);
  Status save();
  Status on_exit(Service& service, int wait_status);
  std::vector<std::string> orchestrator_arguments(const ServicePlan& plan);
  void let_go(const std::string& name);
  void reap();
  bool all_gone() const;

  std::string programs_;
  const RunDir& dir_;
  MeshRecord record_;
  std::vector<Service> services_;
  const Clock& clock_;
  std::uint16_t admin_port_ = 0;  ///< of the orchestrator; 0: not chosen yet
  bool ready_ = false;
};

/// A TCP port of 127.0.0.1 that nobody listens on now.
std::uint16_t free_port();
/// unavailable when host:port cannot be listened on, saying why.
Status check_port(const std::string& host, std::uint16_t port);

}  // namespace fulgur::cli
