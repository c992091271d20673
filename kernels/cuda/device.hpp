// What launches ask of the current device.
#pragma once

#include <cuda_runtime_api.h>

namespace fulgur::kernels::cuda {

/// Multiprocessors of the device that was current at the first call.
inline int multiprocessors() {
  static const int count = [] {
    int device = 0, value = 0;
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&value, cudaDevAttrMultiProcessorCount, device);
    return value;
  }();
  return count;
}

}  // namespace fulgur::kernels::cuda
