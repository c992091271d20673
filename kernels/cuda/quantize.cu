// Quantisers to e4m3 (common/base/e4m3.hpp): weights in blocks of 128 x 128 when they are loaded,
// activation rows in blocks of 128 columns while they are gathered.
#include <cuda_runtime.h>

#include <algorithm>

#include "common/base/e4m3.hpp"
#include "kernels/cuda/launch.hpp"
#include "kernels/cuda/layout.hpp"
#include "kernels/cuda/overlap.hpp"
#include "kernels/cuda/ptx.cuh"

namespace fulgur::kernels::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kChunk = 16;  ///< columns of a thread, 16 bytes of codes
constexpr int kChunks = kE4m3Block / kChunk;

__device__ __forceinline__ void load_chunk(const float* x, float (&v)[kChunk]) {
#pragma unroll
  for (int i = 0; i < kChunk / 4; ++i) {
    const float4 four = reinterpret_cast<const float4*>(x)[i];
    v[4 * i] = four.x, v[4 * i + 1] = four.y, v[4 * i + 2] = four.z, v[4 * i + 3] = four.w;
  }
}
__device__ __forceinline__ void load_chunk(const __nv_bfloat16* x, float (&v)[kChunk]) {
#pragma unroll
  for (int i = 0; i < kChunk / 8; ++i) {
    const uint4 eight = reinterpret_cast<const uint4*>(x)[i];
    const std::uint32_t pairs[] = {eight.x, eight.y, eight.z, eight.w};
#pragma unroll
    for (int n = 0; n < 4; ++n) {
      v[8 * i + 2 * n] = low_bf16(pairs[n]);
      v[8 * i + 2 * n + 1] = high_bf16(pairs[n]);
    }
  }
}

__device__ __forceinline__ float largest(const float (&v)[kChunk]) {
  float top = 0;
#pragma unroll
  for (const float value : v) top = fmaxf(top, fabsf(value));
  return top;
}

__device__ __forceinline__ uint4 codes_of(const float (&v)[kChunk], float inverse) {
  std::uint32_t words[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float* four = v + 4 * i;
    words[i] = pack_e4m3(four[0] * inverse, four[1] * inverse) |
               pack_e4m3(four[2] * inverse, four[3] * inverse) << 16;
  }
  return {words[0], words[1], words[2], words[3]};
}

/// Packed row of a weight's row. interleave as in pack_weight().
__device__ __forceinline__ std::size_t packed_row(std::size_t row, int interleave) {
  return interleave == 0 ? row : gate8_row(row) + (interleave == 2 ? 8 : 0);
}

/// Block: 128 x 128 weights, columns along x. A thread holds four chunks, 32 rows apart.
template <typename T>
__global__ void quantize_weight_kernel(const T* weight, int cols, int first_row, int interleave,
                                       int packed_rows, std::byte* packed) {
  constexpr int kHeld = kE4m3Block * kChunks / kThreads;
  __shared__ float tops[kThreads / 32];
  const int thread = static_cast<int>(threadIdx.x);
  const std::size_t row = blockIdx.y * std::size_t{kE4m3Block} + thread / kChunks;
  const std::size_t col = blockIdx.x * std::size_t{kE4m3Block} + thread % kChunks * kChunk;
  float values[kHeld][kChunk];
  float top = 0;
#pragma unroll
  for (int n = 0; n < kHeld; ++n) {
    load_chunk(weight + (row + n * (kThreads / kChunks)) * cols + col, values[n]);
    top = fmaxf(top, largest(values[n]));
  }
  for (int step = 16; step > 0; step /= 2) {
    top = fmaxf(top, __shfl_xor_sync(0xffffffffU, top, step));
  }
  if (thread % 32 == 0) tops[thread / 32] = top;
  __syncthreads();
  for (const float other : tops) top = fmaxf(top, other);
  const E4m3Scale scale = e4m3_scale(top);
#pragma unroll
  for (int n = 0; n < kHeld; ++n) {
    const std::size_t to = packed_row(first_row + row + n * (kThreads / kChunks), interleave);
    *reinterpret_cast<uint4*>(packed + packed8_byte(to, col, cols)) =
        codes_of(values[n], scale.inverse);
  }
  // The places in the quads that this block's rows look at: plain rows all lie in one half and in
  // both eights of sixteen; gate (or up) rows in both halves, one of the eights.
  if (thread < 2) {
    const std::size_t block_row = first_row + blockIdx.y * std::size_t{kE4m3Block};
    const std::size_t to =
        interleave == 0 ? block_row + thread * 8 : packed_row(block_row + thread * 64, interleave);
    *reinterpret_cast<float*>(packed + packed8_scale_byte(to, col, packed_rows, cols)) =
        scale.scale;
  }
}

/// Block (x, y): 8 rows, and of their blocks of 128 columns every 4th from 4 y on in steps of all
/// y; eight threads a row and block. As tile_kernel of grouping.cu.
template <typename T>
__global__ void gather_kernel(const T* x, int dim, const int* source, int capacity,
                              std::byte* tiled) {
  wait_for_previous();
  let_next_begin();
  const int thread = static_cast<int>(threadIdx.x);
  const int row = static_cast<int>(blockIdx.x) * kAtomRows + thread / kChunks % kAtomRows;
  const int from = source[row];
  if (from < 0) return;
  const unsigned together = 0xffU << (thread % 32 / kChunks * kChunks);
  const int chunk = thread % kChunks;
  constexpr int kTogether = kThreads / (kAtomRows * kChunks);
  const int first = static_cast<int>(blockIdx.y) * kTogether + thread / (kAtomRows * kChunks);
  const int apart = static_cast<int>(gridDim.y) * kTogether;
  for (int block = first; block < dim / kE4m3Block; block += apart) {
    const int col = block * kE4m3Block + chunk * kChunk;
    float values[kChunk];
    load_chunk(x + static_cast<std::size_t>(from) * dim + col, values);
    float top = largest(values);
#pragma unroll
    for (int step = 1; step < kChunks; step *= 2) {
      top = fmaxf(top, __shfl_xor_sync(together, top, step));
    }
    const E4m3Scale scale = e4m3_scale(top);
    *reinterpret_cast<uint4*>(tiled + tiled8_byte(row, col, capacity)) =
        codes_of(values, scale.inverse);
    if (chunk == 0) {
      *reinterpret_cast<float*>(tiled + tiled8_scale_byte(row, block, dim, capacity)) = scale.scale;
    }
  }
}

}  // namespace

cudaError_t quantize_weight(const void* weight, bool is_f32, int rows, int cols, int first_row,
                            int interleave, int packed_rows, void* packed, cudaStream_t stream) {
  if (rows % kE4m3Block != 0 || cols % kE4m3Block != 0 || first_row % kE4m3Block != 0 ||
      packed_rows % kQuadRows != 0 ||
      (interleave == 0 ? 1 : 2) * (first_row + rows) > packed_rows) {
    return cudaErrorInvalidValue;
  }
  if (rows == 0) return cudaSuccess;
  const dim3 blocks(cols / kE4m3Block, rows / kE4m3Block);
  auto* to = static_cast<std::byte*>(packed);
  if (is_f32) {
    quantize_weight_kernel<<<blocks, kThreads, 0, stream>>>(static_cast<const float*>(weight), cols,
                                                            first_row, interleave, packed_rows, to);
  } else {
    quantize_weight_kernel<<<blocks, kThreads, 0, stream>>>(
        static_cast<const __nv_bfloat16*>(weight), cols, first_row, interleave, packed_rows, to);
  }
  return cudaGetLastError();
}

cudaError_t gather_tiled_fp8(const void* x, bool x_is_f32, int dim, const RouteGroups& groups,
                             void* tiled, cudaStream_t stream) {
  if (dim % kE4m3Block != 0 || groups.capacity % kAtomRows != 0) return cudaErrorInvalidValue;
  const int blocks = groups.capacity / kAtomRows;
  // Few rows are cut along the columns, or their loads would wait for each other.
  constexpr int kEnough = 512;
  const int parts = std::clamp(kEnough / std::max(blocks, 1), 1, (dim / kE4m3Block + 3) / 4);
  const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(parts));
  auto* to = static_cast<std::byte*>(tiled);
  if (x_is_f32) {
    return launch_overlapped(gather_kernel<float>, grid, kThreads, 0, stream,
                             static_cast<const float*>(x), dim, groups.source, groups.capacity, to);
  }
  return launch_overlapped(gather_kernel<__nv_bfloat16>, grid, kThreads, 0, stream,
                           static_cast<const __nv_bfloat16*>(x), dim, groups.source,
                           groups.capacity, to);
}

}  // namespace fulgur::kernels::cuda
