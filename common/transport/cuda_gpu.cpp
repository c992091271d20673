#include "common/transport/cuda_gpu.hpp"

#include <sys/random.h>

#include <charconv>

#include "common/transport/cuda_ring.hpp"
#include "common/transport/nccl_channel.hpp"
#include "common/transport/shm_segment.hpp"

namespace fulgur::transport {
namespace {

constexpr std::size_t kCachedBytes = std::size_t{1} << 30;

/// What a GpuApi::identity() says, as text: host, local socket, NCCL.
struct CudaIdentity {
  std::string host;
  std::string port;
  int nccl = 0;

  std::string text() const { return fmt::format("cuda1;{};{};{}", host, port, nccl); }

  static Result<CudaIdentity> parse(const std::string& text) {
    CudaIdentity identity;
    const std::size_t first = text.find(';');
    const std::size_t second = text.find(';', first + 1);
    const std::size_t third = text.find(';', second + 1);
    if (third == std::string::npos || text.substr(0, first) != "cuda1") {
      return Status{Code::data_loss, "an identity of another kind of GPU"};
    }
    identity.host = text.substr(first + 1, second - first - 1);
    identity.port = text.substr(second + 1, third - second - 1);
    const char* end = text.data() + text.size();
    if (std::from_chars(text.data() + third + 1, end, identity.nccl).ptr != end) {
      return Status{Code::data_loss, "an identity with a damaged version"};
    }
    return identity;
  }
};

class CudaGpu final : public GpuApi {
 public:
  CudaGpu(const CudaGpuOptions& options, const CudaDriver& driver, CudaStream stream,
          std::unique_ptr<FdPort> port, BlockSource blocks)
      : options_(options),
        driver_(driver),
        stream_(std::move(stream)),
        port_(std::move(port)),
        pool_(kCachedBytes, std::move(blocks)),
        self_{host_identity(), port_->name(), nccl_version()} {}

  std::string identity() const override { return self_.text(); }

  bool may_use(DeviceCarrier carrier, const std::string& theirs) const override {
    const auto peer = CudaIdentity::parse(theirs);
    if (!peer) return false;
    if (carrier == DeviceCarrier::peer) return !self_.host.empty() && peer->host == self_.host;
    return carrier == DeviceCarrier::nccl && self_.nccl != 0 && peer->nccl == self_.nccl;
  }

  Result<GpuInbox> make_inbox(std::size_t bytes, const std::string& theirs) override {
    FULGUR_ASSIGN_OR_RETURN(const CudaIdentity peer, CudaIdentity::parse(theirs));
    std::vector<UniqueFd> shared;
    FULGUR_ASSIGN_OR_RETURN(GpuInbox inbox,
                            make_cuda_inbox(driver_, options_.device, bytes, shared));
    std::uint64_t tag = 0;
    [[maybe_unused]] const auto got = getrandom(&tag, sizeof(tag), 0);
    const int fds[] = {shared[0].get(), shared[1].get()};
    FULGUR_RETURN_IF_ERROR(port_->send(peer.port, tag, fds));
    inbox.token = fmt::format("{:x}", tag);
    return inbox;
  }

  Result<std::unique_ptr<GpuChannel>> open_outbox(const std::string& token,
                                                  std::size_t bytes) override {
    std::uint64_t tag = 0;
    const char* end = token.data() + token.size();
    if (std::from_chars(token.data(), end, tag, 16).ptr != end) {
      return Status{Code::data_loss, "that is no ring"};
    }
    FULGUR_ASSIGN_OR_RETURN(const std::vector<UniqueFd> shared, port_->take(tag));
    return open_cuda_outbox(driver_, options_.device, bytes, shared);
  }

  Result<std::string> make_id() override { return make_nccl_id(); }
  Result<std::unique_ptr<GpuChannel>> join(const std::string& id, bool sends) override {
    return join_nccl(id, sends, options_.device, options_.nccl_blocks);
  }

  Result<std::shared_ptr<std::byte>> take(std::size_t bytes) override {
    if (auto block = pool_.take_if_any(bytes)) return block;
    return error(Code::resource_exhausted, "no {} bytes of device memory", bytes);
  }

  Status upload(std::byte* device, const void* host, std::size_t bytes) override {
    return copy(device, host, bytes, nullptr);
  }
  Status download(void* host, const std::byte* device, std::size_t bytes, void* ready) override {
    return copy(host, device, bytes, ready);
  }

  BlockSource host_blocks() const override {
    return {MemoryKind::host,
            [](std::size_t bytes) -> void* {
              void* block = nullptr;
              if (cudaHostAlloc(&block, bytes, cudaHostAllocPortable) == cudaSuccess) return block;
              (void)cudaGetLastError();  // the next launch must not find it
              return nullptr;
            },
            [](void* block) { cudaFreeHost(block); }};
  }

 private:
  Status copy(void* to, const void* from, std::size_t bytes, void* ready) {
    FULGUR_RETURN_IF_ERROR(stream_.wait_for(ready));
    FULGUR_RETURN_IF_ERROR(
        check(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream_.get()), "cudaMemcpy"));
    return check(cudaStreamSynchronize(stream_.get()), "cudaMemcpy");
  }

  const CudaGpuOptions options_;
  const CudaDriver driver_;
  CudaStream stream_;
  std::unique_ptr<FdPort> port_;
  BufferPool pool_;
  const CudaIdentity self_;
};

}  // namespace

Result<BlockSource> cuda_blocks(int device) {
  FULGUR_RETURN_IF_ERROR(check(cudaSetDevice(device), "cudaSetDevice"));
  return BlockSource{MemoryKind::device,
                     [device](std::size_t bytes) -> void* {
                       void* block = nullptr;
                       const bool made = cudaSetDevice(device) == cudaSuccess &&
                                         cudaMalloc(&block, bytes) == cudaSuccess;
                       if (!made) (void)cudaGetLastError();
                       return made ? block : nullptr;
                     },
                     [device](void* block) {
                       cudaSetDevice(device);
                       cudaFree(block);
                     }};
}

Result<std::unique_ptr<GpuApi>> open_cuda_gpu(const CudaGpuOptions& options) {
  int count = 0;
  FULGUR_RETURN_IF_ERROR(check(cudaGetDeviceCount(&count), "looking for GPUs"));
  if (options.device < 0 || options.device >= count) {
    return error(Code::unavailable, "there is no GPU {}: this machine has {}", options.device,
                 count);
  }
  FULGUR_ASSIGN_OR_RETURN(BlockSource blocks, cuda_blocks(options.device));
  FULGUR_ASSIGN_OR_RETURN(const CudaDriver driver, CudaDriver::load());
  FULGUR_ASSIGN_OR_RETURN(CudaStream stream, CudaStream::make());
  FULGUR_ASSIGN_OR_RETURN(std::unique_ptr<FdPort> port, FdPort::open());
  return std::unique_ptr<GpuApi>(std::make_unique<CudaGpu>(options, driver, std::move(stream),
                                                           std::move(port), std::move(blocks)));
}

}  // namespace fulgur::transport
