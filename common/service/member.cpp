#include "common/service/member.hpp"

#include <unistd.h>

#include "common/base/log.hpp"
#include "common/transport/cuda_gpu.hpp"
#include "common/transport/device_transport.hpp"
#include "common/transport/make_transport.hpp"

namespace fulgur::service {

Member::Member(std::string program, wire::ServiceKind kind, const Flags& flags)
    : program_(std::move(program)),
      kind_(kind),
      flags_(flags),
      signals_([this] {
        const std::lock_guard lock(mutex_);
        if (running_ == nullptr) _exit(0);  // nothing is served yet, or no more
        running_->post([this] { leave_(); });
      }),
      metrics_(std::string(wire::to_string(kind)), flags.name),
      incarnation_(new_incarnation(clock_)) {}

Status Member::open() {
  FULGUR_ASSIGN_OR_RETURN(checkpoint_, model::Checkpoint::open(flags_.model));
  FULGUR_ASSIGN_OR_RETURN(admin_, Admin::start(flags_.admin, metrics_));
  telemetry::OtlpOptions otlp;
  otlp.endpoint = flags_.otlp_endpoint;
  otlp.resource = {program_, flags_.name};
  FULGUR_ASSIGN_OR_RETURN(tracer_, telemetry::OtlpTracer::start(otlp, clock_, metrics_));
  return open_transport();
}

Status Member::open_transport() {
  if (flags_.backend == "cuda") open_gpu();
  transport::TransportOptions links;
  links.listen = flags_.listen;
  links.allowed = flags_.carrier();
  links.curve = flags_.curve;
  const transport::Identity self{kind_, flags_.name, incarnation_, gpu_ ? gpu_->identity() : ""};
  FULGUR_ASSIGN_OR_RETURN(transport_, transport::make_transport(self, links));
  if (gpu_) {
    transport_ = std::make_unique<transport::DeviceTransport>(std::move(transport_), *gpu_,
                                                              flags_.device_options(), clock_);
  }
  return Status::ok();
}

void Member::open_gpu() {
  constexpr std::size_t kCachedBytes = std::size_t{1} << 30;
  auto gpu = transport::open_cuda_gpu({.device = flags_.gpu});
  auto blocks = transport::cuda_blocks(flags_.gpu);
  if (!gpu.is_ok() || !blocks.is_ok()) {
    without_gpu_ = gpu.is_ok() ? blocks.status() : gpu.status();
    return;
  }
  gpu_ = std::move(*gpu);
  device_pool_ = std::make_shared<BufferPool>(kCachedBytes, std::move(*blocks));
}

wire::Register Member::registration(std::uint64_t capacity_bytes) const {
  wire::Register self;
  self.kind = kind_;
  self.name = flags_.name;
  self.incarnation = incarnation_;
  self.pid = static_cast<std::uint32_t>(getpid());
  self.endpoint = flags_.advertise.empty() ? transport_->endpoint() : flags_.advertise;
  self.admin_endpoint = admin_->endpoint();
  self.model_fingerprint = checkpoint_->fingerprint();
  self.weight_version = checkpoint_->weight_version();
  self.numerics = "cpu-" + flags_.activations;
  self.capacity_bytes = capacity_bytes;
  return self;
}

int Member::serve(actor::Reactor& reactor, std::function<void()> leave) {
  leave_ = std::move(leave);
  run_as(&reactor);
  if (left_) reactor.stop();  // it failed while it was being built
  if (!without_gpu_.is_ok()) {
    log::warn("activations go through host memory why=\"{}\"", without_gpu_.message());
  }
  log::info("serving endpoint={} admin={}", transport_->endpoint(), admin_->endpoint());
  reactor.run();
  run_as(nullptr);
  served_ = true;
  admin_->server().shutdown(kSecond);
  return exit_code_;
}

void Member::run_as(actor::Reactor* reactor) {
  const std::lock_guard lock(mutex_);
  running_ = reactor;
}

void Member::left() {
  left_ = true;
  if (running_ != nullptr) running_->stop();
}

void Member::fatal(const std::string& why) {
  if (served_ || exit_code_ != 0) return;
  exit_code_ = fail(error(Code::failed_precondition, "{}", why));
  left();
}

}  // namespace fulgur::service
