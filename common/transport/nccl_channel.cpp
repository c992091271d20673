#include "common/transport/nccl_channel.hpp"

#include <dlfcn.h>
#include <nccl.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <thread>
#include <vector>

#include "common/base/log.hpp"
#include "common/transport/cuda_driver.hpp"

namespace fulgur::transport {
namespace {

constexpr unsigned kLooksPerQuery = 256;

/// Looked up when the program runs: a machine without NCCL runs everything else.
struct Nccl {
  decltype(&ncclGetVersion) version = nullptr;
  decltype(&ncclGetUniqueId) unique_id = nullptr;
  decltype(&ncclCommInitRankConfig) init = nullptr;
  decltype(&ncclCommAbort) abort = nullptr;
  decltype(&ncclCommGetAsyncError) async_error = nullptr;
  decltype(&ncclGetErrorString) error_string = nullptr;
  decltype(&ncclSend) send = nullptr;
  decltype(&ncclRecv) receive = nullptr;
  int number = 0;  ///< 0: not found
};

template <class Function>
bool find(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  return function != nullptr;
}

const Nccl& nccl() {
  static const Nccl loaded = [] {
    Nccl api;
    // Two ranks gain nothing from multicast, and on shared hosts it has taken GPUs out of service.
    setenv("NCCL_NVLS_ENABLE", "0", 0);
    void* library = dlopen("libnccl.so.2", RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
      log::warn("no nccl: {}", dlerror());
      return api;
    }
    int number = 0;
    if (find(library, "ncclGetVersion", api.version) &&
        find(library, "ncclGetUniqueId", api.unique_id) &&
        find(library, "ncclCommInitRankConfig", api.init) &&
        find(library, "ncclCommAbort", api.abort) &&
        find(library, "ncclCommGetAsyncError", api.async_error) &&
        find(library, "ncclGetErrorString", api.error_string) &&
        find(library, "ncclSend", api.send) && find(library, "ncclRecv", api.receive) &&
        api.version(&number) == ncclSuccess) {
      api.number = number;
    }
    return api;
  }();
  return loaded;
}

Status check(ncclResult_t result, const char* what) {
  if (result == ncclSuccess || result == ncclInProgress) return Status::ok();
  return error(Code::unavailable, "{}: {}", what, nccl().error_string(result));
}

class NcclChannel final : public GpuChannel {
 public:
  NcclChannel(CudaStream stream, bool sends, int device)
      : sends_(sends), device_(device), stream_(std::move(stream)) {}

  ~NcclChannel() override {
    if (aborter_.joinable()) aborter_.join();
    for (const cudaEvent_t event : running_) cudaEventDestroy(event);
    for (const cudaEvent_t event : spare_) cudaEventDestroy(event);
  }

  Status join(const ncclUniqueId& id, int blocks) {
    ncclConfig_t config = NCCL_CONFIG_INITIALIZER;
    config.blocking = 0;
    config.minCTAs = 1;
    config.maxCTAs = blocks;
    unsettled_ = true;
    return check(nccl().init(&comm_, 2, id, sends_ ? 0 : 1, &config), "ncclCommInitRankConfig");
  }

  Result<bool> idle() override { return settle(); }

  Status start(const GpuTransfer& transfer) override {
    FULGUR_RETURN_IF_ERROR(stream_.wait_for(transfer.ready));
    const ncclResult_t result =
        sends_
            ? nccl().send(transfer.source, transfer.bytes, ncclUint8, 1, comm_, stream_.get())
            : nccl().receive(transfer.target, transfer.bytes, ncclUint8, 0, comm_, stream_.get());
    FULGUR_RETURN_IF_ERROR(check(result, sends_ ? "ncclSend" : "ncclRecv"));
    // A first transfer sets the connection up in a thread of NCCL's: it is on the stream later.
    unmarked_ = true;
    unsettled_ = result == ncclInProgress;
    return settle().status();
  }

  Result<std::uint64_t> completed() override {
    FULGUR_ASSIGN_OR_RETURN(const bool settled, settle());
    if (!settled || running_.empty()) return completed_;
    while (!running_.empty()) {
      const cudaError_t state = cudaEventQuery(running_.front());
      if (state == cudaErrorNotReady) break;
      FULGUR_RETURN_IF_ERROR(transport::check(state, "an nccl transfer"));
      spare_.push_back(running_.front());
      running_.pop_front();
      ++completed_;
      looks_ = 0;
    }
    if (++looks_ % kLooksPerQuery == 0) unsettled_ = true;  // asks whether the peer is lost
    return completed_;
  }

  /// ncclCommAbort ends kernels that wait for the peer. It may block, so it has a thread.
  void abort() override {
    aborted_ = true;
    if (comm_ == nullptr) {
      abort_done_ = true;
      return;
    }
    aborter_ = std::thread([this] {
      cudaSetDevice(device_);
      nccl().abort(comm_);
      abort_done_.store(true);
    });
  }

  bool stopped() override { return aborted_ && abort_done_.load() && stream_.drained(); }

 private:
  /// Whether NCCL has finished what the last call began; then the transfer is on the stream and
  /// gets its event.
  Result<bool> settle() {
    if (unsettled_) {
      ncclResult_t state = ncclSuccess;
      FULGUR_RETURN_IF_ERROR(check(nccl().async_error(comm_, &state), "ncclCommGetAsyncError"));
      if (state == ncclInProgress) return false;
      FULGUR_RETURN_IF_ERROR(check(state, "nccl"));
      unsettled_ = false;
    }
    if (!std::exchange(unmarked_, false)) return true;
    cudaEvent_t event = nullptr;
    if (spare_.empty()) {
      FULGUR_RETURN_IF_ERROR(transport::check(
          cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreate"));
    } else {
      event = spare_.back();
      spare_.pop_back();
    }
    running_.push_back(event);
    FULGUR_RETURN_IF_ERROR(
        transport::check(cudaEventRecord(event, stream_.get()), "cudaEventRecord"));
    return true;
  }

  const bool sends_;
  const int device_;
  CudaStream stream_;
  ncclComm_t comm_ = nullptr;
  bool unsettled_ = false;  ///< NCCL may still be at the last call
  bool unmarked_ = false;   ///< the last transfer has no event yet
  std::deque<cudaEvent_t> running_;
  std::vector<cudaEvent_t> spare_;
  std::uint64_t completed_ = 0;
  unsigned looks_ = 0;
  bool aborted_ = false;
  std::atomic<bool> abort_done_{false};
  std::thread aborter_;
};

}  // namespace

int nccl_version() { return nccl().number; }

Result<std::string> make_nccl_id() {
  ncclUniqueId id;
  FULGUR_RETURN_IF_ERROR(check(nccl().unique_id(&id), "ncclGetUniqueId"));
  return std::string(id.internal, sizeof(id.internal));
}

Result<std::unique_ptr<GpuChannel>> join_nccl(const std::string& id, bool sends, int device,
                                              int blocks) {
  ncclUniqueId unique;
  if (id.size() != sizeof(unique.internal)) return Status{Code::data_loss, "that is no nccl id"};
  std::memcpy(unique.internal, id.data(), id.size());
  FULGUR_ASSIGN_OR_RETURN(CudaStream stream, CudaStream::make());
  auto channel = std::make_unique<NcclChannel>(std::move(stream), sends, device);
  if (const Status joined = channel->join(unique, blocks); !joined) {
    channel->abort();
    while (!channel->stopped()) std::this_thread::yield();
    return joined;
  }
  return std::unique_ptr<GpuChannel>(std::move(channel));
}

}  // namespace fulgur::transport
