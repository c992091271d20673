// Stands for cuda_gpu.cpp in builds without CUDA.
#include "common/transport/cuda_gpu.hpp"

namespace fulgur::transport {

Result<std::unique_ptr<GpuApi>> open_cuda_gpu(const CudaGpuOptions&) {
  return Status{Code::failed_precondition, "this program was built without CUDA"};
}

Result<BlockSource> cuda_blocks(int) {
  return Status{Code::failed_precondition, "this program was built without CUDA"};
}

}  // namespace fulgur::transport
