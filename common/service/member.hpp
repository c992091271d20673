// The way up and down that shards and workers share: checkpoint, metrics, admin server and
// transport in the order that pinning compute threads needs, then serving until asked to leave.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <string>

#include "common/base/clock.hpp"
#include "common/model/checkpoint.hpp"
#include "common/service/service.hpp"
#include "common/telemetry/otlp_tracer.hpp"

namespace fulgur::service {

class Member {
 public:
  /// Watches for SIGTERM from here on: until serve() runs, one ends the process with 0.
  Member(std::string program, wire::ServiceKind kind, const Flags& flags);

  /// Opens all parts, on the thread that will serve. Compute backends come after it: whatever they
  /// pin, threads started later would inherit. A GPU that cannot be opened is the backend's to
  /// refuse; if the backend can use it, activations go through host memory.
  Status open();

  const Clock& clock() const { return clock_; }
  const std::shared_ptr<const model::Checkpoint>& checkpoint() const { return checkpoint_; }
  telemetry::Metrics& metrics() { return metrics_; }
  Admin& admin() { return *admin_; }
  transport::Transport& transport() { return *transport_; }
  /// Memory of the GPU that tensors are sent from; null without a GPU.
  const std::shared_ptr<BufferPool>& device_pool() const { return device_pool_; }
  /// Null when spans go nowhere.
  telemetry::Tracer* tracer() { return tracer_.get(); }
  /// What this process says of itself to the orchestrator.
  wire::Register registration(std::uint64_t capacity_bytes = 0) const;

  /// Runs `reactor`; the first SIGTERM posts `leave` to it. Returns main's exit code after left()
  /// or fatal().
  int serve(actor::Reactor& reactor, std::function<void()> leave);
  /// Reactor thread: the service has drained, or cannot go on. Before serve() they end it at once;
  /// after it they do nothing: actors that end with the reactor read their mail, a second refusal
  /// among it.
  void left();
  void fatal(const std::string& why);
  /// Prints "program: why" and returns 1.
  int fail(const Status& why) const { return service::fail(program_, why); }

 private:
  Status open_transport();
  void open_gpu();
  void run_as(actor::Reactor* reactor);

  const std::string program_;
  const wire::ServiceKind kind_;
  const Flags& flags_;
  RealClock clock_;
  std::mutex mutex_;  // the signal thread asks while the reactor may be ending
  actor::Reactor* running_ = nullptr;
  std::function<void()> leave_;
  SignalWatch signals_;
  telemetry::Metrics metrics_;
  std::uint64_t incarnation_;
  std::shared_ptr<const model::Checkpoint> checkpoint_;
  std::unique_ptr<Admin> admin_;
  std::unique_ptr<telemetry::OtlpTracer> tracer_;
  std::unique_ptr<transport::GpuApi> gpu_;  ///< outlives the transport; null: none
  std::shared_ptr<BufferPool> device_pool_;
  Status without_gpu_;  ///< why, if backend cuda could not have one here
  std::unique_ptr<transport::Transport> transport_;
  bool left_ = false;
  bool served_ = false;
  int exit_code_ = 0;
};

}  // namespace fulgur::service
