// What both roles share: the model, and how a process opens its GPU.
#include <algorithm>

#include "bench/gpu/mesh/gpu_mesh.hpp"
#include "bench/gpu/transport/host_gpu.hpp"
#include "bench/slice/slice_model.hpp"
#include "common/transport/cuda_gpu.hpp"
#include "common/transport/device_transport.hpp"
#include "common/transport/make_transport.hpp"
#include "kernels/cuda/emulation/emulated_backend.hpp"
#include "kernels/include/fulgur/kernels/make_backend.hpp"

namespace fulgur::bench {
namespace {

constexpr std::size_t kCachedBytes = std::size_t{2} << 30;

const RealClock& real_clock() {
  static const RealClock clock;
  return clock;
}

kernels::CudaFamily family_of(const std::string& name) {
  if (name == "portable") return kernels::CudaFamily::portable;
  return name == "sm90" ? kernels::CudaFamily::sm90 : kernels::CudaFamily::automatic;
}

Result<std::unique_ptr<kernels::Backend>> open_backend(const GpuMeshOptions& options, int device) {
  const ModelShape shape = mesh_model(options).shape();
  if (device < 0) return kernels::make_emulated_cuda_backend({.shape = shape});
  return kernels::make_backend(
      {.kind = "cuda", .device = device, .family = family_of(options.family), .shape = shape});
}

std::vector<transport::DeviceCarrier> carriers_of(const std::string& name) {
  if (name == "peer") return {transport::DeviceCarrier::peer};
  if (name == "nccl") return {transport::DeviceCarrier::nccl};
  return {};
}

}  // namespace

model::ModelConfig mesh_model(const GpuMeshOptions& options) {
  model::ModelConfig config = m1_slice(options.lightning, options.softmax);
  config.vocab = options.vocab;
  if (!options.tiny) return config;
  config.hidden = 256;
  config.heads = 8;
  config.kv_heads = 1;
  config.experts = 8;
  config.expert_inner = 128;
  return config;
}

bool mesh_holds(const GpuMeshOptions& options, std::uint32_t worker, std::uint32_t layer,
                std::uint32_t expert) {
  const auto workers =
      static_cast<std::uint32_t>(std::max<std::size_t>(options.devices.size(), 2) - 1);
  return (worker + workers - (layer + expert) % workers) % workers < options.replicas;
}

std::vector<expert::ReplicaId> mesh_replicas(const GpuMeshOptions& options,
                                             const model::ModelConfig& config,
                                             std::uint32_t worker) {
  std::vector<expert::ReplicaId> ids;
  for (std::uint32_t layer = 0; layer < config.layers; ++layer) {
    for (std::uint32_t expert = 0; expert < config.experts; ++expert) {
      if (mesh_holds(options, worker, layer, expert)) ids.push_back({layer, expert});
    }
  }
  return ids;
}

void rest_until_due(actor::Reactor& reactor) {
  const Nanoseconds now = reactor.clock().now();
  const Nanoseconds due = reactor.scheduler().clock().next_due(now + kMillisecond);
  reactor.transport().doorbell().wait(std::clamp<Nanoseconds>(due - now, 0, kMillisecond));
}

Result<MeshEnd> open_mesh_device(const GpuMeshOptions& options, int device) {
  MeshEnd end;
  BlockSource blocks = host_block_source();
  if (device < 0) {
    FULGUR_ASSIGN_OR_RETURN(end.gpu, open_host_gpu());
    blocks.kind = MemoryKind::device;  // nobody but the backend and the carrier looks into them
  } else {
    FULGUR_ASSIGN_OR_RETURN(end.gpu, transport::open_cuda_gpu({device, options.nccl_blocks}));
    FULGUR_ASSIGN_OR_RETURN(blocks, transport::cuda_blocks(device));
  }
  end.pool = std::make_shared<BufferPool>(kCachedBytes, std::move(blocks));
  FULGUR_ASSIGN_OR_RETURN(end.backend, open_backend(options, device));
  return end;
}

Result<MeshEnd> open_mesh_end(const GpuMeshOptions& options, const transport::Identity& who,
                              const std::string& listen, int device) {
  FULGUR_ASSIGN_OR_RETURN(MeshEnd end, open_mesh_device(options, device));
  transport::Identity identity = who;
  identity.incarnation = static_cast<std::uint64_t>(real_clock().wall_now());
  identity.gpu = end.gpu->identity();
  transport::TransportOptions links;
  if (!listen.empty()) links.listen = {listen};
  FULGUR_ASSIGN_OR_RETURN(auto inner, transport::make_transport(identity, links));
  transport::DeviceOptions device_options;
  device_options.carriers = carriers_of(options.carrier);
  device_options.window_bytes = options.window_bytes;
  device_options.handshake = 30 * kSecond;
  end.transport = std::make_unique<transport::DeviceTransport>(
      std::move(inner), *end.gpu, std::move(device_options), real_clock());
  return end;
}

}  // namespace fulgur::bench
