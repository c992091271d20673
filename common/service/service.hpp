// What every service process does the same way: flags, signals, the admin endpoint and the life of
// its reactor. Keeps each main a wiring diagram.
#pragma once

#include <CLI/CLI.hpp>

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "common/actor/reactor.hpp"
#include "common/base/dtype.hpp"
#include "common/http/server.hpp"
#include "common/telemetry/metrics.hpp"
#include "common/transport/curve_keys.hpp"
#include "common/transport/device_transport.hpp"
#include "common/transport/transport.hpp"

namespace fulgur::service {

/// Flags every service has; add_flags() declares them on a CLI11 application.
struct Flags {
  std::string name;
  std::vector<std::string> listen;
  std::string advertise;  ///< where peers connect, when that is not where this process listens
  std::string orchestrator;
  std::string admin = "127.0.0.1:0";
  std::string model;
  std::string transport = "auto";    ///< auto | shm | zmq
  std::string activations = "bf16";  ///< bf16 | f32
  std::uint32_t threads = 1;
  std::vector<int> cpus;
  std::string backend = "cpu";  ///< cpu | cuda
  std::string isa = "auto";     ///< of backend cpu: kernels::BackendOptions::isa
  int gpu = 0;
  std::vector<std::string> gpu_carriers = {"peer", "nccl"};  ///< peer | nccl | none, in this order
  std::uint64_t gpu_window_bytes = std::uint64_t{128} << 20;
  std::string log_level = "info";
  std::vector<transport::CurveKey> curve;  ///< empty: links are not encrypted
  std::string otlp_endpoint;               ///< collector of spans; empty: none

  transport::Carrier carrier() const;
  transport::DeviceOptions device_options() const;
  Dtype dtype() const { return activations == "f32" ? Dtype::f32 : Dtype::bf16; }
};

void add_flags(CLI::App& app, Flags& flags);

/// Parses argv; on a bad flag prints one line and returns exit code 2, on --help prints and returns
/// 0. An empty result means: go on.
std::optional<int> parse(CLI::App& app, int argc, char** argv);

/// Prints "fulgur-expert: why" to stderr and returns `code`, for main to return.
int fail(const std::string& program, const Status& why, int code = 1);

/// Blocks SIGTERM and SIGINT in the calling thread and those it starts, and calls back from a
/// thread of its own when one comes: the first time `on_first`, after that the process exits at
/// once.
class SignalWatch {
 public:
  explicit SignalWatch(std::function<void()> on_first);
  ~SignalWatch();
  SignalWatch(const SignalWatch&) = delete;
  SignalWatch& operator=(const SignalWatch&) = delete;

 private:
  void run();

  std::function<void()> on_first_;
  std::atomic<bool> stopping_{false};
  std::thread thread_;
};

/// Serves /metrics, /healthz and /readyz of a process whose numbers live on its reactor's thread:
/// `refresh` runs there, twice a second, and may set `ready`.
class Admin {
 public:
  /// `address`: "host:port", port 0 for any.
  static Result<std::unique_ptr<Admin>> start(const std::string& address,
                                              telemetry::Metrics& metrics);

  /// "127.0.0.1:41234".
  std::string endpoint() const { return server_->endpoint(); }
  http::Server& server() { return *server_; }
  void set_ready(bool ready, const std::string& why);

 private:
  struct State;
  Admin() = default;

  std::shared_ptr<State> state_;
  std::unique_ptr<http::Server> server_;
};

/// Splits "host:port" (also "[::1]:80").
Result<std::pair<std::string, std::uint16_t>> split_address(const std::string& address);

/// Runs `work` on the reactor's thread now and then every half second until the reactor ends.
void refresh_periodically(actor::Reactor& reactor, std::function<void()> work);

/// Larger at every start of the same name: wall-clock nanoseconds.
std::uint64_t new_incarnation(const Clock& clock);

}  // namespace fulgur::service
