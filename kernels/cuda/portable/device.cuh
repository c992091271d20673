// What the portable kernels are written in: plain CUDA without warps, atomics or dynamic shared
// memory, that is also plain C++. A kernel is a sequence of phases; between two phases all threads
// of the block have met. On a GPU a phase is the thread's own code and a __syncthreads(); in
// emulation (kernels/cuda/emulation) it is a loop over the block's threads. So what is outside of
// phases must be the same for every thread, and what a thread keeps from phase to phase must be in
// shared memory.
//
// Arithmetic: the definition's (kernels/reference), operation by operation. Compile with -ftz=true
// -fmad=false and IEEE division and square root: the only fused operations are those written fmaf.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

#include "common/base/dtype.hpp"
#include "kernels/reference/exp_constants.hpp"

#if defined(__CUDACC__)
#define FULGUR_DEVICE __device__ __forceinline__
#else
#define FULGUR_DEVICE inline
#endif

namespace fulgur::kernels::cuda::portable {

/// f(thread) for every thread of the block; all of them have finished when it returns.
template <class F>
FULGUR_DEVICE void phase(const F& f) {
#if defined(__CUDACC__)
  f(threadIdx.x);
  __syncthreads();
#else
  emulation::each_thread(f);
#endif
}

/// Starts grid.x * grid.y * grid.z blocks of `threads` threads on a stream.
template <class... Parameters, class... Arguments>
cudaError_t start(void (*kernel)(Parameters...), dim3 grid, unsigned threads, cudaStream_t stream,
                  const Arguments&... arguments) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return cudaSuccess;
#if defined(__CUDACC__)
  kernel<<<grid, threads, 0, stream>>>(static_cast<Parameters>(arguments)...);
  return cudaGetLastError();
#else
  (void)stream;
  emulation::run_grid(grid, threads, [&] { kernel(static_cast<Parameters>(arguments)...); });
  return cudaSuccess;
#endif
}

/// Blocks for `count` elements, a thread each.
inline unsigned blocks_for(std::size_t count, unsigned threads) {
  return static_cast<unsigned>((count + threads - 1) / threads);
}

// --- Scalars ---------------------------------------------------------------------------------

/// Bits of the bf16 nearest to x, ties to even; NaN stays a quiet NaN.
FULGUR_DEVICE std::uint16_t bf16_bits(float x) {
  const std::uint32_t bits = __float_as_uint(x);
  if ((bits & 0x7fffffffU) > 0x7f800000U) return static_cast<std::uint16_t>((bits >> 16) | 0x40U);
  return static_cast<std::uint16_t>((bits + 0x7fffU + ((bits >> 16) & 1U)) >> 16);
}
FULGUR_DEVICE float bf16_value(std::uint16_t bits) {
  return __uint_as_float(static_cast<std::uint32_t>(bits) << 16);
}
FULGUR_DEVICE float half_value(std::uint16_t half) {
  const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000U) << 16;
  const std::uint32_t exponent = (half >> 10) & 0x1fU;
  const std::uint32_t mantissa = half & 0x3ffU;
  if (exponent == 0x1fU) return __uint_as_float(sign | 0x7f800000U | (mantissa << 13));
  if (exponent == 0) {
    const float magnitude = static_cast<float>(mantissa) * 0x1.0p-24F;
    return sign != 0 ? -magnitude : magnitude;
  }
  return __uint_as_float(sign | ((exponent + 112U) << 23) | (mantissa << 13));
}

/// Element types of state and operands: how a float is kept.
struct F32 {
  using Stored = float;
  static FULGUR_DEVICE float load(Stored x) { return x; }
  static FULGUR_DEVICE Stored store(float x) { return x; }
};
struct Bf16Bits {
  using Stored = std::uint16_t;
  static FULGUR_DEVICE float load(Stored x) { return bf16_value(x); }
  static FULGUR_DEVICE Stored store(float x) { return bf16_bits(x); }
};

/// Element i of an aligned array of any type.
FULGUR_DEVICE float element(const void* data, Dtype dtype, std::size_t i) {
  if (dtype == Dtype::f32) return static_cast<const float*>(data)[i];
  const std::uint16_t bits = static_cast<const std::uint16_t*>(data)[i];
  return dtype == Dtype::bf16 ? bf16_value(bits) : half_value(bits);
}

/// The one exponential: scalar_math.hpp, exp_fixed.
FULGUR_DEVICE float exp_fixed(float x) {
  if (x != x) return x;
  x = x < kExpLow ? kExpLow : x;
  x = kExpHigh < x ? kExpHigh : x;
  const float n = rintf(x * kLog2E);
  float r = fmaf(n, -kLn2High, x);
  r = fmaf(n, -kLn2Low, r);
  float p = kExp7;
  p = fmaf(p, r, kExp6);
  p = fmaf(p, r, kExp5);
  p = fmaf(p, r, kExp4);
  p = fmaf(p, r, kExp3);
  p = fmaf(p, r, kExp2);
  p = fmaf(p, r * r, r) + 1.0F;
  const int whole = static_cast<int>(n);
  const int half = whole >> 1;
  const float low = __uint_as_float(static_cast<std::uint32_t>(half + 127) << 23);
  const float high = __uint_as_float(static_cast<std::uint32_t>(whole - half + 127) << 23);
  return p * low * high;
}
FULGUR_DEVICE float sigmoid_fixed(float x) { return 1.0F / (1.0F + exp_fixed(-x)); }
FULGUR_DEVICE float silu_fixed(float x) { return x / (1.0F + exp_fixed(-x)); }

/// 16 lane sums added in the fixed order; a thread of its own.
FULGUR_DEVICE float sum_lanes(const float* lanes) {
  float sum[kLanes / 2];
  for (int i = 0; i < kLanes / 2; ++i) sum[i] = lanes[i] + lanes[i + kLanes / 2];
  for (int width = kLanes / 4; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) sum[i] += sum[i + width];
  }
  return sum[0];
}

FULGUR_DEVICE float dot(const float* q, const typename F32::Stored* k, std::uint32_t dim) {
  float sum = 0;
  for (std::uint32_t d = 0; d < dim; ++d) sum = fmaf(q[d], k[d], sum);
  return sum;
}
FULGUR_DEVICE float dot(const float* q, const typename Bf16Bits::Stored* k, std::uint32_t dim) {
  float sum = 0;
  for (std::uint32_t d = 0; d < dim; ++d) sum = fmaf(q[d], bf16_value(k[d]), sum);
  return sum;
}

}  // namespace fulgur::kernels::cuda::portable
