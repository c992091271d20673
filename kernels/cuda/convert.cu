// Element-wise steps between the fast kernels where the backend's interface is float32: four
// elements a thread, bound by memory.
#include <cuda_runtime.h>

#include "kernels/cuda/launch.hpp"
#include "kernels/cuda/ptx.cuh"

namespace fulgur::kernels::cuda {
namespace {

constexpr unsigned kThreads = 256;

template <class F>
__global__ void each_four(std::size_t count, F f) {
  const std::size_t i = (blockIdx.x * std::size_t{blockDim.x} + threadIdx.x) * 4;
  if (i < count) f(i);
}

template <class F>
cudaError_t launch(std::size_t count, cudaStream_t stream, F f) {
  if (count % 4 != 0) return cudaErrorInvalidValue;
  if (count == 0) return cudaSuccess;
  const auto blocks = static_cast<unsigned>((count / 4 + kThreads - 1) / kThreads);
  each_four<<<blocks, kThreads, 0, stream>>>(count, f);
  return cudaGetLastError();
}

__device__ float4 load4(const float* x, std::size_t i) {
  return *reinterpret_cast<const float4*>(x + i);
}
__device__ void store4(void* out, std::size_t i, float4 v) {
  *reinterpret_cast<uint2*>(static_cast<__nv_bfloat16*>(out) + i) = {pack_bf16(v.x, v.y),
                                                                     pack_bf16(v.z, v.w)};
}

struct Silu {
  const float* x;
  void* out;
  __device__ void operator()(std::size_t i) const {
    const float4 v = load4(x, i);
    store4(out, i, make_float4(silu(v.x), silu(v.y), silu(v.z), silu(v.w)));
  }
};
struct Gate {
  const float* gate;
  float* x;
  __device__ void operator()(std::size_t i) const {
    const float4 v = load4(x, i);
    const float4 g = load4(gate, i);
    *reinterpret_cast<float4*>(x + i) =
        make_float4(v.x * sigmoid(g.x), v.y * sigmoid(g.y), v.z * sigmoid(g.z), v.w * sigmoid(g.w));
  }
};
struct Round {
  const float* x;
  void* out;
  __device__ void operator()(std::size_t i) const { store4(out, i, load4(x, i)); }
};
struct Widen {
  const void* x;
  float* out;
  __device__ void operator()(std::size_t i) const {
    const uint2 v = *reinterpret_cast<const uint2*>(static_cast<const __nv_bfloat16*>(x) + i);
    *reinterpret_cast<float4*>(out + i) =
        make_float4(low_bf16(v.x), high_bf16(v.x), low_bf16(v.y), high_bf16(v.y));
  }
};

}  // namespace

cudaError_t silu_bf16(const float* x, std::size_t count, void* out, cudaStream_t stream) {
  return launch(count, stream, Silu{x, out});
}
cudaError_t gate(const float* gate, std::size_t count, float* x, cudaStream_t stream) {
  return launch(count, stream, Gate{gate, x});
}
cudaError_t to_bf16(const float* x, std::size_t count, void* out, cudaStream_t stream) {
  return launch(count, stream, Round{x, out});
}
cudaError_t to_f32(const void* x, std::size_t count, float* out, cudaStream_t stream) {
  return launch(count, stream, Widen{x, out});
}

}  // namespace fulgur::kernels::cuda
