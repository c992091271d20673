#include "common/service/service.hpp"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <charconv>
#include <cstdio>
#include <mutex>

#include "common/base/log.hpp"
#include "common/http/admin_routes.hpp"
#include "common/http/client.hpp"
#include "common/service/curve_flag.hpp"

namespace fulgur::service {
namespace {

constexpr Nanoseconds kRefreshPeriod = 500 * kMillisecond;

struct RefreshDue {};

/// Calls `work` periodically on its reactor.
class Refresher {
 public:
  Refresher(actor::Self& self, std::function<void()> work) : self_(self), work_(std::move(work)) {}
  caf::behavior make_behavior() {
    refresh();
    return {[this](RefreshDue) { refresh(); }};
  }

 private:
  void refresh() {
    work_();
    actor::tell_after(self_, kRefreshPeriod, &self_, RefreshDue{});
  }

  actor::Self& self_;
  std::function<void()> work_;
};

/// What connect() takes; empty, or why `text` is none.
std::string endpoint_problem(const std::string& text) {
  const std::string why = text + " is not tcp://HOST:PORT or ipc://PATH";
  constexpr std::string_view kTcp = "tcp://";
  constexpr std::string_view kIpc = "ipc://";
  if (text.starts_with(kIpc)) return text.size() > kIpc.size() ? std::string() : why;
  if (!text.starts_with(kTcp)) return why;
  const auto place = split_address(text.substr(kTcp.size()));
  return place.is_ok() && place->second != 0 ? std::string() : why;
}

sigset_t ending_signals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  return set;
}

}  // namespace
}  // namespace fulgur::service

FULGUR_LOCAL_MESSAGE(fulgur::service::RefreshDue)

namespace fulgur::service {

transport::Carrier Flags::carrier() const {
  if (transport == "shm") return transport::Carrier::shm;
  if (transport == "zmq") return transport::Carrier::zmq;
  return transport::Carrier::automatic;
}

transport::DeviceOptions Flags::device_options() const {
  transport::DeviceOptions options;
  options.window_bytes = gpu_window_bytes;
  options.carriers.clear();
  for (const std::string& carrier : gpu_carriers) {
    if (carrier == "none") break;  // what there is when all before it have failed
    options.carriers.push_back(carrier == "peer" ? transport::DeviceCarrier::peer
                                                 : transport::DeviceCarrier::nccl);
  }
  return options;
}

void add_flags(CLI::App& app, Flags& flags) {
  const CLI::Validator endpoint([](std::string& text) { return endpoint_problem(text); },
                                "ENDPOINT");
  app.add_option("--name", flags.name, "name of this service, unique in the mesh")->required();
  app.add_option("--listen", flags.listen, "ZeroMQ endpoint to listen on; repeatable");
  app.add_option("--advertise", flags.advertise,
                 "endpoint that peers are told to connect to; default: where it listens")
      ->check(endpoint);
  app.add_option("--orchestrator", flags.orchestrator, "ZeroMQ endpoint of the orchestrator")
      ->check(endpoint);
  app.add_option("--admin", flags.admin, "host:port of /metrics, /healthz, /readyz; port 0: any")
      ->capture_default_str();
  app.add_option("--model", flags.model, "checkpoint directory")->required();
  app.add_option("--transport", flags.transport, "carrier of activations")
      ->check(CLI::IsMember({"auto", "shm", "zmq"}))
      ->capture_default_str();
  add_curve_flag(app, flags.curve);
  app.add_option("--activations", flags.activations, "type of activations on the wire")
      ->check(CLI::IsMember({"bf16", "f32"}))
      ->capture_default_str();
  app.add_option("--threads", flags.threads, "compute threads")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  app.add_option("--cpus", flags.cpus, "cpus to pin compute threads to, e.g. 0,1")->delimiter(',');
  app.add_option("--backend", flags.backend, "what computes")
      ->check(CLI::IsMember({"cpu", "cuda"}))
      ->capture_default_str();
  app.add_option("--isa", flags.isa,
                 "instructions of backend cpu; amx has numerics of its own: one choice a mesh")
      ->check(CLI::IsMember({"auto", "avx", "amx", "avx512bf16", "avx512", "avx2"}))
      ->capture_default_str();
  app.add_option("--gpu", flags.gpu, "number of the GPU of backend cuda")
      ->check(CLI::Range(0, 1023))
      ->capture_default_str();
  app.add_option("--gpu-carriers", flags.gpu_carriers,
                 "what moves activations between GPUs, in the order tried; none: host memory")
      ->delimiter(',')
      ->check(CLI::IsMember({"peer", "nccl", "none"}))
      ->capture_default_str();
  app.add_option("--gpu-window-bytes", flags.gpu_window_bytes,
                 "device memory that a peer on another GPU may fill, for each link; of 4096s")
      ->check(CLI::Range(std::uint64_t{1} << 20, std::uint64_t{1} << 36))
      ->check(CLI::Validator(
          [](std::string& text) {
            return text.size() < 20 && std::strtoull(text.c_str(), nullptr, 10) % 4096 == 0
                       ? ""
                       : "not a multiple of 4096";
          },
          "BYTES"))
      ->capture_default_str();
  app.add_option("--log-level", flags.log_level, "least level logged")
      ->check(CLI::IsMember({"debug", "info", "warn", "error"}))
      ->capture_default_str();
  app.add_option("--otlp-endpoint", flags.otlp_endpoint,
                 "OpenTelemetry collector that spans of sampled requests go to, http://host:4318")
      ->envname("OTEL_EXPORTER_OTLP_ENDPOINT")
      ->check(CLI::Validator(
          [](std::string& text) {
            return text.empty() ? "" : http::parse_base_url(text).status().message();
          },
          "URL"));
}

std::optional<int> parse(CLI::App& app, int argc, char** argv) {
  try {
    app.parse(argc, argv);
    return std::nullopt;
  } catch (const CLI::CallForHelp& help) {
    return app.exit(help);
  } catch (const CLI::ParseError& bad) {
    std::fprintf(stderr, "%s: %s (see --help)\n", app.get_name().c_str(), bad.what());
    return 2;
  }
}

int fail(const std::string& program, const Status& why, int code) {
  std::fprintf(stderr, "%s: %s\n", program.c_str(), why.message().c_str());
  return code;
}

SignalWatch::SignalWatch(std::function<void()> on_first) : on_first_(std::move(on_first)) {
  const sigset_t set = ending_signals();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  thread_ = std::thread([this] { run(); });
}

SignalWatch::~SignalWatch() {
  stopping_ = true;
  pthread_kill(thread_.native_handle(), SIGTERM);
  thread_.join();
}

void SignalWatch::run() {
  const sigset_t set = ending_signals();
  for (bool first = true;; first = false) {
    int signal = 0;
    sigwait(&set, &signal);
    if (stopping_) return;
    if (!first) _exit(128 + signal);  // asked twice: leave at once
    on_first_();
  }
}

struct Admin::State {
  std::mutex mutex;
  http::Readiness readiness{false, "starting"};
};

Result<std::pair<std::string, std::uint16_t>> split_address(const std::string& address) {
  const auto colon = address.rfind(':');
  std::uint16_t port = 0;
  const char* end = address.data() + address.size();
  const bool fits = colon != std::string::npos && colon > 0 &&
                    std::from_chars(address.data() + colon + 1, end, port).ptr == end &&
                    colon + 1 < address.size();
  if (!fits) return error(Code::invalid_argument, "'{}' is not host:port", address);
  std::string host = address.substr(0, colon);
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') {
    host = host.substr(1, host.size() - 2);
  }
  return std::pair{std::move(host), port};
}

Result<std::unique_ptr<Admin>> Admin::start(const std::string& address,
                                            telemetry::Metrics& metrics) {
  FULGUR_ASSIGN_OR_RETURN(const auto place, split_address(address));
  std::unique_ptr<Admin> admin(new Admin());
  admin->state_ = std::make_shared<State>();
  FULGUR_ASSIGN_OR_RETURN(admin->server_, http::Server::listen(place.first, place.second));
  http::AdminSources sources;
  sources.metrics = [&metrics] { return metrics.text(); };
  sources.readiness = [state = admin->state_] {
    const std::lock_guard lock(state->mutex);
    return state->readiness;
  };
  http::add_admin_routes(*admin->server_, std::move(sources));
  admin->server_->start();
  return admin;
}

void Admin::set_ready(bool ready, const std::string& why) {
  const std::lock_guard lock(state_->mutex);
  state_->readiness = {ready, why};
}

void refresh_periodically(actor::Reactor& reactor, std::function<void()> work) {
  reactor.spawn<Refresher>(std::move(work));
}

std::uint64_t new_incarnation(const Clock& clock) {
  return static_cast<std::uint64_t>(clock.wall_now());
}

}  // namespace fulgur::service
