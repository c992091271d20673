// What the GPU transport needs of CUDA beside the runtime's API: checked calls, and driver
// functions that the runtime looks up, so that a program without a driver still starts.
#pragma once

#include <cuda.h>
#include <cuda_runtime_api.h>

#include <memory>

#include "common/base/status.hpp"

namespace fulgur::transport {

Status check(cudaError_t result, const char* what);
Status check(CUresult result, const char* what);

/// Memory that other processes can map, and words that a stream writes.
struct CudaDriver {
  decltype(&cuMemGetAllocationGranularity) granularity = nullptr;
  decltype(&cuMemCreate) create = nullptr;
  decltype(&cuMemRelease) release = nullptr;
  decltype(&cuMemAddressReserve) reserve = nullptr;
  decltype(&cuMemAddressFree) unreserve = nullptr;
  decltype(&cuMemMap) map = nullptr;
  decltype(&cuMemUnmap) unmap = nullptr;
  decltype(&cuMemSetAccess) set_access = nullptr;
  decltype(&cuMemExportToShareableHandle) export_handle = nullptr;
  decltype(&cuMemImportFromShareableHandle) import_handle = nullptr;
  decltype(&cuStreamWriteValue64) write_value = nullptr;

  static Result<CudaDriver> load();
};

/// A stream that does not wait for the default stream.
class CudaStream {
 public:
  static Result<CudaStream> make();
  CudaStream(CudaStream&& other) noexcept : stream_(std::exchange(other.stream_, nullptr)) {}
  CudaStream& operator=(CudaStream&&) = delete;
  ~CudaStream();

  cudaStream_t get() const { return stream_; }
  /// Orders what follows behind an event; null: nothing to wait for.
  Status wait_for(void* ready) const;
  /// Whether all of it is over, however it ended.
  bool drained() const { return cudaStreamQuery(stream_) != cudaErrorNotReady; }
  Status failure() const;

 private:
  explicit CudaStream(cudaStream_t stream) : stream_(stream) {}
  cudaStream_t stream_;
};

}  // namespace fulgur::transport
