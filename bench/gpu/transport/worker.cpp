// The worker's end, and what both ends share.
#include <sys/prctl.h>
#include <unistd.h>

#include <csignal>
#include <cstring>

#include "bench/gpu/transport/gpu_transport.hpp"
#include "bench/gpu/transport/host_gpu.hpp"
#include "common/base/log.hpp"
#include "common/base/rng.hpp"
#include "common/transport/cuda_gpu.hpp"
#include "common/transport/make_transport.hpp"
#include "common/wire/codec.hpp"

namespace fulgur::bench {
namespace {

using transport::LinkId;

const RealClock& real_clock() {
  static const RealClock clock;
  return clock;
}

class Worker final : public transport::Handler {
 public:
  explicit Worker(GpuEnd end) : end_(std::move(end)) {}

  void run() {
    for (;;) {
      if (end_.transport->poll(*this, 16) == 0) end_.transport->doorbell().wait(10 * kMillisecond);
    }
  }

  void on_link_up(LinkId, const transport::Peer&) override {}
  void on_link_down(LinkId, const Status&) override {}

  void on_message(LinkId link, wire::Frames frames) override {
    auto message = wire::decode(std::move(frames));
    if (!message || !std::holds_alternative<wire::Dispatch>(message->body)) {
      log::error("the worker got no dispatch: {}", message.status().to_string());
      return;
    }
    const auto& dispatch = std::get<wire::Dispatch>(message->body);
    wire::Message answer;
    answer.sender = "expert-0";
    const Status done = answer_to(dispatch, answer.body);
    if (!done) {
      log::error("{}", done.to_string());
      answer.body = wire::Nack{dispatch.id, 0, 0, wire::NackReason::invalid};
    }
    const auto mode = static_cast<GpuMode>(dispatch.layer);
    // A sink lets go of the tensor before it says so.
    if (mode == GpuMode::sink) message = wire::Message{};
    if (const Status sent = end_.transport->send(link, wire::encode(answer)); !sent) {
      log::warn("no answer: {}", sent.to_string());
    }
  }

 private:
  Status answer_to(const wire::Dispatch& dispatch, wire::Body& answer) {
    FULGUR_ASSIGN_OR_RETURN(const wire::Frame tensor, on_device(end_, dispatch.activations));
    const auto mode = static_cast<GpuMode>(dispatch.layer);
    if (mode == GpuMode::sink) {
      answer = wire::Nack{dispatch.id, 0, 0, wire::NackReason::busy};
      return Status::ok();
    }
    wire::Combine combine;
    combine.id = dispatch.id;
    combine.routes = 2 * dispatch.rows;
    combine.hidden = kHidden;
    const std::size_t bytes = combine.routes * kRowBytes;
    if (mode == GpuMode::echo) {
      if (outputs_.size != bytes) {
        auto block = end_.pool->take(bytes);
        const auto* data = block.get();
        outputs_ = {std::move(block), data, bytes, MemoryKind::device, nullptr};
      }
      combine.outputs = outputs_;
    } else {
      std::vector<std::uint64_t> got(tensor.size / 8);
      FULGUR_RETURN_IF_ERROR(end_.gpu->download(got.data(), tensor.data, tensor.size, nullptr));
      if (got != gpu_pattern(dispatch.id, tensor.size)) {
        return {Code::data_loss, "activations arrived damaged"};
      }
      const auto words = gpu_pattern(~dispatch.id, bytes);
      auto block = end_.pool->take(bytes);
      FULGUR_RETURN_IF_ERROR(end_.gpu->upload(block.get(), words.data(), bytes));
      const auto* data = block.get();
      combine.outputs = {std::move(block), data, bytes, MemoryKind::device, nullptr};
    }
    answer = std::move(combine);
    return Status::ok();
  }

  GpuEnd end_;
  wire::Frame outputs_;
};

}  // namespace

std::vector<std::uint64_t> gpu_pattern(std::uint64_t seed, std::size_t bytes) {
  std::vector<std::uint64_t> words(bytes / 8);
  for (std::size_t i = 0; i < words.size(); ++i) words[i] = random_bits(seed, i);
  return words;
}

Result<GpuEnd> make_gpu_end(const std::string& name, const std::string& listen, int device,
                            const std::string& carrier, std::uint64_t window_bytes,
                            int nccl_blocks) {
  GpuEnd end;
  BlockSource blocks = host_block_source();
  if (device < 0) {
    FULGUR_ASSIGN_OR_RETURN(end.gpu, open_host_gpu());
  } else {
    FULGUR_ASSIGN_OR_RETURN(end.gpu, transport::open_cuda_gpu({device, nccl_blocks}));
    FULGUR_ASSIGN_OR_RETURN(blocks, transport::cuda_blocks(device));
  }
  end.pool = std::make_unique<BufferPool>(std::size_t{2} << 30, std::move(blocks));
  const auto now = static_cast<std::uint64_t>(real_clock().wall_now());
  const transport::Identity identity{wire::ServiceKind::tool, name, now, end.gpu->identity()};
  transport::TransportOptions options;
  if (!listen.empty()) options.listen = {listen};
  FULGUR_ASSIGN_OR_RETURN(auto inner, transport::make_transport(identity, options));
  transport::DeviceOptions device_options;
  device_options.window_bytes = window_bytes;
  device_options.handshake = 30 * kSecond;
  device_options.carriers.clear();
  if (carrier == "peer") device_options.carriers = {transport::DeviceCarrier::peer};
  if (carrier == "nccl") device_options.carriers = {transport::DeviceCarrier::nccl};
  end.transport = std::make_unique<transport::DeviceTransport>(
      std::move(inner), *end.gpu, std::move(device_options), real_clock());
  return end;
}

Result<wire::Frame> on_device(GpuEnd& end, const wire::Frame& tensor) {
  if (wire::is_device(tensor)) return tensor;
  auto block = end.pool->take(tensor.size);
  FULGUR_RETURN_IF_ERROR(end.gpu->upload(block.get(), tensor.data, tensor.size));
  const auto* data = block.get();
  return wire::Frame{std::move(block), data, tensor.size, MemoryKind::device, nullptr};
}

int serve_gpu_worker(const std::string& endpoint, int device, const std::string& carrier,
                     std::uint64_t window_bytes, int nccl_blocks) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() == 1) return 1;
  auto end = make_gpu_end("expert-" + std::to_string(device), endpoint, device, carrier,
                          window_bytes, nccl_blocks);
  if (!end) {
    log::error("worker: {}", end.status().to_string());
    return 2;
  }
  Worker(std::move(end).value()).run();
  return 0;
}

}  // namespace fulgur::bench
