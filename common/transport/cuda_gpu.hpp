// The GPU of this process behind GpuApi, with CUDA and, where the library is found when the program
// runs, NCCL. Builds without CUDA have these functions, too: they say so.
#pragma once

#include <memory>

#include "common/base/buffer_pool.hpp"
#include "common/transport/gpu_api.hpp"

namespace fulgur::transport {

struct CudaGpuOptions {
  int device = 0;
  /// Thread blocks that one direction of an NCCL link may occupy on this GPU. They wait there for
  /// the peer, so all links together must leave room for the kernels of the model.
  int nccl_blocks = 16;
};

/// The calling thread is the reactor's: the device stays its current one. unavailable: no such GPU,
/// or its driver is too old; failed_precondition: built without CUDA.
Result<std::unique_ptr<GpuApi>> open_cuda_gpu(const CudaGpuOptions& options);

/// Device memory of that GPU, for a BufferPool whose blocks go into frames.
Result<BlockSource> cuda_blocks(int device);

}  // namespace fulgur::transport
