// Row-wise kernels around the products: residual + RMSNorm, norm + gate, embedding, top-k routing.
// One block works on a row; each thread sums its own columns ascending, lanes and warps are added
// in a fixed tree, so a row's bits depend on the row and its length alone.
#include <cuda_runtime.h>

#include "kernels/cuda/launch.hpp"
#include "kernels/cuda/layout.hpp"
#include "kernels/cuda/overlap.hpp"
#include "kernels/cuda/ptx.cuh"

namespace fulgur::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kMaxDim = 8192;
constexpr int kVectors = kMaxDim / (kThreads * 4);  ///< float4 of a row a thread holds at most
constexpr int kMaxExperts = 32;

__device__ float block_sum(float value) {
  __shared__ float sums[kThreads / 32];
#pragma unroll
  for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(0xffffffffU, value, step);
  if (threadIdx.x % 32 == 0) sums[threadIdx.x / 32] = value;
  __syncthreads();
  float total = 0;
#pragma unroll
  for (int w = 0; w < kThreads / 32; ++w) total += sums[w];
  return total;
}

__device__ float4 bf16x4(const __nv_bfloat16* from) {
  const uint2 v = *reinterpret_cast<const uint2*>(from);
  return {low_bf16(v.x), high_bf16(v.x), low_bf16(v.y), high_bf16(v.y)};
}

/// Scale of RMSNorm for the row held in v.
__device__ float norm_scale(const float4 (&v)[kVectors], int dim, float eps) {
  float sum = 0;
#pragma unroll
  for (int n = 0; n < kVectors; ++n) {
    sum = fmaf(v[n].x, v[n].x, sum);
    sum = fmaf(v[n].y, v[n].y, sum);
    sum = fmaf(v[n].z, v[n].z, sum);
    sum = fmaf(v[n].w, v[n].w, sum);
  }
  return 1.0F / sqrtf(block_sum(sum) / static_cast<float>(dim) + eps);
}

__device__ void store_tiled(std::byte* tiled, int row, int col, int capacity, float4 v) {
  *reinterpret_cast<uint2*>(tiled + tiled_byte(row, col, capacity)) = {pack_bf16(v.x, v.y),
                                                                       pack_bf16(v.z, v.w)};
}

__global__ void residual_norm_kernel(const float* x, const float* y, float alpha, float beta,
                                     const float* weight, float eps, int dim, float* out,
                                     std::byte* tiled, int capacity) {
  wait_for_previous();
  let_next_begin();
  const int row = static_cast<int>(blockIdx.x);
  const std::size_t base = static_cast<std::size_t>(row) * dim;
  float4 v[kVectors];
#pragma unroll
  for (int n = 0; n < kVectors; ++n) {
    const int col = (n * kThreads + static_cast<int>(threadIdx.x)) * 4;
    v[n] = make_float4(0, 0, 0, 0);
    if (col >= dim) continue;
    v[n] = *reinterpret_cast<const float4*>(x + base + col);
    if (y == nullptr) continue;
    const float4 b = *reinterpret_cast<const float4*>(y + base + col);
    v[n] = make_float4(fmaf(alpha, v[n].x, beta * b.x), fmaf(alpha, v[n].y, beta * b.y),
                       fmaf(alpha, v[n].z, beta * b.z), fmaf(alpha, v[n].w, beta * b.w));
  }
  const float scale = norm_scale(v, dim, eps);
#pragma unroll
  for (int n = 0; n < kVectors; ++n) {
    const int col = (n * kThreads + static_cast<int>(threadIdx.x)) * 4;
    if (col >= dim) continue;
    const float4 w = *reinterpret_cast<const float4*>(weight + col);
    const float4 r = make_float4(v[n].x * scale * w.x, v[n].y * scale * w.y, v[n].z * scale * w.z,
                                 v[n].w * scale * w.w);
    if (out != nullptr) *reinterpret_cast<float4*>(out + base + col) = r;
    if (tiled != nullptr) store_tiled(tiled, row, col, capacity, r);
  }
}

__global__ void norm_gate_kernel(const __nv_bfloat16* o, const __nv_bfloat16* gate,
                                 const float* weight, float eps, int dim, std::byte* tiled,
                                 int capacity) {
  wait_for_previous();
  let_next_begin();
  const int row = static_cast<int>(blockIdx.x);
  const std::size_t base = static_cast<std::size_t>(row) * dim;
  float4 v[kVectors];
#pragma unroll
  for (int n = 0; n < kVectors; ++n) {
    const int col = (n * kThreads + static_cast<int>(threadIdx.x)) * 4;
    v[n] = col < dim ? bf16x4(o + base + col) : make_float4(0, 0, 0, 0);
  }
  const float scale = norm_scale(v, dim, eps);
#pragma unroll
  for (int n = 0; n < kVectors; ++n) {
    const int col = (n * kThreads + static_cast<int>(threadIdx.x)) * 4;
    if (col >= dim) continue;
    const float4 w = *reinterpret_cast<const float4*>(weight + col);
    const float4 g = bf16x4(gate + base + col);
    store_tiled(
        tiled, row, col, capacity,
        make_float4(v[n].x * scale * w.x * sigmoid(g.x), v[n].y * scale * w.y * sigmoid(g.y),
                    v[n].z * scale * w.z * sigmoid(g.z), v[n].w * scale * w.w * sigmoid(g.w)));
  }
}

/// 4 columns a thread: out[i] = row ids[i] of a matrix.
__global__ void embed_kernel(const __nv_bfloat16* table, const std::uint32_t* ids, int rows,
                             int dim, float* out) {
  const std::size_t index = blockIdx.x * std::size_t{blockDim.x} + threadIdx.x;
  const std::size_t row = index / (dim / 4);
  if (row >= rows) return;
  const std::size_t col = index % (dim / 4) * 4;
  *reinterpret_cast<float4*>(out + row * dim + col) =
      bf16x4(table + static_cast<std::size_t>(ids[row]) * dim + col);
}
template <bool kF32>
__global__ void gather_kernel(const float* x, const std::uint32_t* ids, int rows, int dim,
                              void* out) {
  const std::size_t index = blockIdx.x * std::size_t{blockDim.x} + threadIdx.x;
  const std::size_t row = index / (dim / 4);
  if (row >= rows) return;
  const std::size_t col = index % (dim / 4) * 4;
  const float4 v =
      *reinterpret_cast<const float4*>(x + static_cast<std::size_t>(ids[row]) * dim + col);
  const std::size_t at = row * dim + col;
  if (kF32) {
    *reinterpret_cast<float4*>(static_cast<float*>(out) + at) = v;
  } else {
    *reinterpret_cast<uint2*>(static_cast<__nv_bfloat16*>(out) + at) = {pack_bf16(v.x, v.y),
                                                                        pack_bf16(v.z, v.w)};
  }
}

unsigned blocks_of_four(int rows, int dim) {
  return static_cast<unsigned>((static_cast<std::size_t>(rows) * (dim / 4) + kThreads - 1) /
                               kThreads);
}

/// Softmax of one row's logits (one an expert and lane), then the k largest.
__device__ void choose(float logit, int experts, int k, std::uint16_t* chosen, float* weights) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  float largest = lane < experts ? logit : -INFINITY;
  for (int step = 16; step > 0; step /= 2) {
    largest = fmaxf(largest, __shfl_xor_sync(0xffffffffU, largest, step));
  }
  float left = lane < experts ? expf(logit - largest) : -1.0F;
  float sum = 0;
  float mine = 0;
  int rank = -1;
  for (int slot = 0; slot < k; ++slot) {
    float best = left;
    int at = lane;
    for (int step = 16; step > 0; step /= 2) {
      const float other = __shfl_xor_sync(0xffffffffU, best, step);
      const int other_at = __shfl_xor_sync(0xffffffffU, at, step);
      if (other > best || (other == best && other_at < at)) best = other, at = other_at;
    }
    sum += best;
    if (lane == at) mine = left, left = -1.0F, rank = slot;
  }
  if (rank >= 0) {
    chosen[rank] = static_cast<std::uint16_t>(lane);
    weights[rank] = mine / sum;
  }
}

/// A block works on kRows rows, a warp on every kWarps-th expert: kPerWarp of them at once, so that
/// a load of a row serves several products. The sum of a (row, expert) has the same order in every
/// shape.
template <int kRows, int kWarps>
__global__ __launch_bounds__(32 * kWarps) void route_kernel(const float* y, int rows, int dim,
                                                            const float* router, int experts, int k,
                                                            std::uint16_t* chosen, float* weights) {
  wait_for_previous();
  let_next_begin();
  constexpr int kPerWarp = kMaxExperts / kWarps;
  __shared__ float logits[kRows][kMaxExperts];
  const int first = static_cast<int>(blockIdx.x) * kRows;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  float sum[kPerWarp][kRows] = {};
  // With one row there are registers to have the loads of several steps in flight.
#pragma unroll(kRows == 1 ? 6 : 1)
  for (int col = lane * 4; col < dim; col += 128) {
    float4 w[kPerWarp];
#pragma unroll
    for (int e = 0; e < kPerWarp; ++e) {
      const int expert = min(warp + e * kWarps, experts - 1);
      w[e] =
          *reinterpret_cast<const float4*>(router + static_cast<std::size_t>(expert) * dim + col);
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const std::size_t row = min(first + r, rows - 1);
      const float4 v = *reinterpret_cast<const float4*>(y + row * dim + col);
#pragma unroll
      for (int e = 0; e < kPerWarp; ++e) {
        sum[e][r] = fmaf(v.x, w[e].x, sum[e][r]);
        sum[e][r] = fmaf(v.y, w[e].y, sum[e][r]);
        sum[e][r] = fmaf(v.z, w[e].z, sum[e][r]);
        sum[e][r] = fmaf(v.w, w[e].w, sum[e][r]);
      }
    }
  }
#pragma unroll
  for (int e = 0; e < kPerWarp; ++e) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      for (int step = 16; step > 0; step /= 2) {
        sum[e][r] += __shfl_xor_sync(0xffffffffU, sum[e][r], step);
      }
      if (lane == 0) logits[r][warp + e * kWarps] = sum[e][r];
    }
  }
  __syncthreads();
  for (int r = warp; r < kRows && first + r < rows; r += kWarps) {
    const std::size_t at = static_cast<std::size_t>(first + r) * k;
    choose(lane < experts ? logits[r][lane] : 0.0F, experts, k, chosen + at, weights + at);
  }
}

}  // namespace

cudaError_t residual_norm(const float* x, const float* y, float alpha, float beta,
                          const float* weight, float eps, int rows, int dim, float* out,
                          void* tiled, int capacity, cudaStream_t stream) {
  if (dim > kMaxDim || dim % kAtomCols != 0) return cudaErrorInvalidValue;
  if (rows == 0) return cudaSuccess;
  return launch_overlapped(residual_norm_kernel, rows, kThreads, 0, stream, x, y, alpha, beta,
                           weight, eps, dim, out, static_cast<std::byte*>(tiled), capacity);
}

cudaError_t norm_gate(const void* o, const void* gate, const float* weight, float eps, int rows,
                      int dim, void* tiled, int capacity, cudaStream_t stream) {
  if (dim > kMaxDim || dim % kAtomCols != 0) return cudaErrorInvalidValue;
  if (rows == 0) return cudaSuccess;
  return launch_overlapped(norm_gate_kernel, rows, kThreads, 0, stream,
                           static_cast<const __nv_bfloat16*>(o),
                           static_cast<const __nv_bfloat16*>(gate), weight, eps, dim,
                           static_cast<std::byte*>(tiled), capacity);
}

cudaError_t embed(const void* table, const std::uint32_t* ids, int rows, int dim, float* out,
                  cudaStream_t stream) {
  if (dim % 4 != 0) return cudaErrorInvalidValue;
  if (rows == 0) return cudaSuccess;
  embed_kernel<<<blocks_of_four(rows, dim), kThreads, 0, stream>>>(
      static_cast<const __nv_bfloat16*>(table), ids, rows, dim, out);
  return cudaGetLastError();
}

cudaError_t gather_rows(const float* x, const std::uint32_t* rows, int count, int dim,
                        bool out_is_f32, void* out, cudaStream_t stream) {
  if (dim % 4 != 0) return cudaErrorInvalidValue;
  if (count == 0) return cudaSuccess;
  const unsigned blocks = blocks_of_four(count, dim);
  if (out_is_f32) {
    gather_kernel<true><<<blocks, kThreads, 0, stream>>>(x, rows, count, dim, out);
  } else {
    gather_kernel<false><<<blocks, kThreads, 0, stream>>>(x, rows, count, dim, out);
  }
  return cudaGetLastError();
}

cudaError_t route(const float* y, int rows, int dim, const float* router, int experts, int k,
                  std::uint16_t* chosen, float* weights, cudaStream_t stream) {
  if (experts > kMaxExperts || k > 8 || k > experts || dim % 4 != 0) return cudaErrorInvalidValue;
  if (rows == 0) return cudaSuccess;
  if (rows <= 256) {  // a warp an expert: loads are waited for, not bandwidth
    return launch_overlapped(route_kernel<1, kMaxExperts>, rows, 32 * kMaxExperts, 0, stream, y,
                             rows, dim, router, experts, k, chosen, weights);
  }
  return launch_overlapped(route_kernel<8, 8>, (rows + 7) / 8, 256, 0, stream, y, rows, dim, router,
                           experts, k, chosen, weights);
}

}  // namespace fulgur::kernels::cuda
