#include "cli/supervision.hpp"

#include <arpa/inet.h>
#include <netdb.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "common/base/log.hpp"

namespace fulgur::cli {
namespace {
constexpr int kCrashesMax = 2;  // of a service that never served
}

Supervision::Supervision(std::string programs, const RunDir& dir, MeshRecord record,
                         std::vector<ServicePlan> plans, const Clock& clock)
    : programs_(std::move(programs)), dir_(dir), record_(std::move(record)), clock_(clock) {
  for (auto& plan : plans) {
    record_.services.push_back({plan.kind, plan.name, 0, plan.endpoint, dir_.log_path(plan.name)});
    services_.push_back({std::move(plan), 0, 0, 0, 0, {}});
  }
}

Supervision::~Supervision() {
  for (const Service& service : services_) {
    if (service.pid == 0) continue;
    kill(service.pid, SIGKILL);
    waitpid(service.pid, nullptr, 0);
  }
}

Status Supervision::start_all() {
  for (Service& service : services_) FULGUR_RETURN_IF_ERROR(start(service));
  return Status::ok();
}

Status Supervision::start(Service& service) {
  std::vector<std::string> arguments = service.plan.arguments;
  if (service.plan.kind == "orchestrator") arguments = orchestrator_arguments(service.plan);
  FULGUR_ASSIGN_OR_RETURN(service.pid, spawn(programs_ + "/" + service.plan.program, arguments,
                                             dir_.log_path(service.plan.name)));
  service.started_at = clock_.now();
  for (auto& recorded : record_.services)
    if (recorded.name == service.plan.name) recorded.pid = service.pid;
  return save();
}

Status Supervision::start_again(Service& service) {
  const Status started = start(service);
  if (started.is_ok() || !ready_) return started;
  const Nanoseconds delay = service.backoff.next(0);
  service.restart_at = clock_.now() + delay;
  log::warn("{} cannot be started again, next attempt in {} ms: {}", service.plan.name,
            delay / kMillisecond, started.message());
  return Status::ok();
}

/// Others read the record to look at the mesh; it serves without.
Status Supervision::save() {
  const Status written = dir_.write(record_);
  if (written.is_ok() || !ready_) return written;
  log::warn("{}", written.message());
  return Status::ok();
}

/// The orchestrator waits for the services there are now, which need not be those of the start.
std::vector<std::string> Supervision::orchestrator_arguments(const ServicePlan& plan) {
  std::vector<std::string> arguments = plan.arguments;
  // The same address as before where possible: somebody may have the operations page open.
  const bool same = admin_port_ != 0 && check_port("127.0.0.1", admin_port_).is_ok();
  if (!same) admin_port_ = free_port();
  record_.orchestrator_admin = "127.0.0.1:" + std::to_string(admin_port_);
  for (std::size_t i = 0; i + 1 < arguments.size(); ++i) {
    if (arguments[i] == "--expect-experts") arguments[i + 1] = std::to_string(count("expert"));
    if (arguments[i] == "--expect-attention") arguments[i + 1] = std::to_string(count("attention"));
  }
  arguments.insert(arguments.end(), {"--admin", record_.orchestrator_admin});
  return arguments;
}

std::uint32_t Supervision::count(const std::string& kind) const {
  return static_cast<std::uint32_t>(std::count_if(
      services_.begin(), services_.end(), [&](const auto& it) { return it.plan.kind == kind; }));
}

bool Supervision::runs(const std::string& name) const {
  return std::any_of(services_.begin(), services_.end(),
                     [&](const auto& it) { return it.plan.name == name; });
}

Status Supervision::add(ServicePlan plan) {
  record_.services.push_back({plan.kind, plan.name, 0, plan.endpoint, dir_.log_path(plan.name)});
  services_.push_back({std::move(plan), 0, 0, 0, 0, {}});
  const Status started = start(services_.back());
  if (started.is_ok()) return started;
  services_.pop_back();
  record_.services.pop_back();
  return started;
}

void Supervision::let_go(const std::string& name) {
  std::erase_if(services_, [&](const auto& it) { return it.plan.name == name; });
  std::erase_if(record_.services, [&](const auto& it) { return it.name == name; });
  log::info("{} has drained and left", name);
}

Status Supervision::on_exit(Service& service, int wait_status) {
  const std::string log = dir_.log_path(service.plan.name);
  if (!ready_ && (WIFEXITED(wait_status) || ++service.crashes > kCrashesMax)) {
    const std::string words = last_line(log);
    return error(Code::failed_precondition, "{} {}{}{} (log: {})", service.plan.name,
                 describe_exit(wait_status), words.empty() ? "" : ": ", words, log);
  }
  const Nanoseconds delay = service.backoff.next(clock_.now() - service.started_at);
  service.restart_at = clock_.now() + delay;
  log::warn("{} {}, starting again in {} ms (log: {})", service.plan.name,
            describe_exit(wait_status), delay / kMillisecond, log);
  return Status::ok();
}

Status Supervision::poll() {
  std::vector<std::string> drained;
  for (Service& service : services_) {
    int wait_status = 0;
    if (service.pid != 0 && waitpid(service.pid, &wait_status, WNOHANG) == service.pid) {
      service.pid = 0;
      const bool drains = service.plan.kind == "expert" || service.plan.kind == "attention";
      if (ready_ && drains && WIFEXITED(wait_status) && WEXITSTATUS(wait_status) == 0) {
        drained.push_back(service.plan.name);
        continue;
      }
      FULGUR_RETURN_IF_ERROR(on_exit(service, wait_status));
    }
    if (service.pid == 0 && clock_.now() >= service.restart_at)
      FULGUR_RETURN_IF_ERROR(start_again(service));
  }
  for (const std::string& name : drained) let_go(name);
  return drained.empty() ? Status::ok() : save();
}

void Supervision::reap() {
  for (Service& service : services_)
    if (service.pid != 0 && waitpid(service.pid, nullptr, WNOHANG) == service.pid) service.pid = 0;
}

bool Supervision::all_gone() const {
  return std::all_of(services_.begin(), services_.end(), [](auto& it) { return it.pid == 0; });
}

// The router drains while the rest still serves it; then the rest has nothing left to do.
void Supervision::shut_down(Nanoseconds deadline, const std::function<bool()>& impatient) {
  Nanoseconds end = clock_.now() + deadline;
  const auto wait_while = [&](const auto& busy) {
    for (reap(); busy() && clock_.now() < end; reap()) {
      usleep(10'000);
      if (impatient && impatient()) end = clock_.now();
    }
  };
  const auto stop = [&](bool routers) {
    for (Service& service : services_)
      if (service.pid != 0 && (service.plan.kind == "router") == routers)
        kill(service.pid, SIGTERM);
  };
  stop(true);
  wait_while([&] {
    return std::any_of(services_.begin(), services_.end(),
                       [](auto& it) { return it.plan.kind == "router" && it.pid != 0; });
  });
  stop(false);
  wait_while([&] { return !all_gone(); });
  for (const Service& service : services_)
    if (service.pid != 0) kill(service.pid, SIGKILL);
}

namespace {

class Socket {
 public:
  explicit Socket(int family) : fd_(socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0)) {}
  ~Socket() { close(fd_); }
  Socket(const Socket&) = delete;
  Socket& operator=(const Socket&) = delete;
  int fd() const { return fd_; }

 private:
  int fd_;
};

}  // namespace

std::uint16_t free_port() {
  const Socket probe(AF_INET);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t size = sizeof(address);
  bind(probe.fd(), reinterpret_cast<sockaddr*>(&address), size);
  getsockname(probe.fd(), reinterpret_cast<sockaddr*>(&address), &size);
  return ntohs(address.sin_port);
}

Status check_port(const std::string& host, std::uint16_t port) {
  addrinfo hints{};
  hints.ai_flags = AI_PASSIVE;
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int failure = getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found);
  if (failure != 0)
    return error(Code::invalid_argument, "--host {}: {}", host, gai_strerror(failure));
  const Socket probe(found->ai_family);
  const int yes = 1;
  setsockopt(probe.fd(), SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
  const int bound = bind(probe.fd(), found->ai_addr, found->ai_addrlen);
  const int reason = errno;
  freeaddrinfo(found);
  if (bound == 0 && listen(probe.fd(), 1) == 0) return Status::ok();
  if (reason == EADDRINUSE)
    return error(Code::unavailable, "port {} is in use by another program; choose one with --port",
                 port);
  return error(Code::unavailable, "cannot listen on {}:{}: {}", host, port, std::strerror(reason));
}

}  // namespace fulgur::cli
