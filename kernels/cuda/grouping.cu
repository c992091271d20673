// What surrounds a grouped product: packing of weights, grouping of routes by expert on the device,
// gathering of rows into the tiled layout, and the slot-order combine. All of it moves bytes; none
// of it is visible beside the weights, except that it must not synchronise with the host.
#include <cuda_runtime.h>

#include <algorithm>

#include "kernels/cuda/launch.hpp"
#include "kernels/cuda/layout.hpp"
#include "kernels/cuda/overlap.hpp"
#include "kernels/cuda/ptx.cuh"

namespace fulgur::kernels::cuda {
namespace {

constexpr int kPlanThreads = 1024;
constexpr int kPlanWarps = kPlanThreads / 32;
constexpr int kPlanAlone = 2048;  ///< routes that one block places as fast as many

/// One thread a 16-byte chunk of 8 columns.
__global__ void pack_kernel(const uint4* weight, int rows, int cols, int first_row, int interleave,
                            std::byte* packed) {
  const int chunks = cols / 8;
  const std::size_t index = blockIdx.x * std::size_t{blockDim.x} + threadIdx.x;
  if (index >= static_cast<std::size_t>(rows) * chunks) return;
  const std::size_t row = index / chunks;
  const std::size_t col = index % chunks * 8;
  const std::size_t to =
      first_row + (interleave == 0 ? row : gate_row(row) + (interleave == 2 ? 8 : 0));
  *reinterpret_cast<uint4*>(packed + packed_byte(to, col, cols)) = weight[index];
}

/// Rows of a group with its padding.
__device__ int padded_rows(int count) { return (count + kAtomRows - 1) / kAtomRows * kAtomRows; }

/// A warp counts routes [from, to) by group: counts[g] += how many. The lanes that meet the same
/// group count once; a warp's counts are its own.
__device__ void count_routes(const std::uint16_t* experts, int from, int to, int groups,
                             int* counts) {
  constexpr int kAtOnce = 8;  // loads under way
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const unsigned lower = (1U << lane) - 1;
  for (int base = from; base < to; base += kAtOnce * 32) {
    int group[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int r = base + i * 32 + lane;
      group[i] = r < to ? experts[r] : groups;
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      if (base + i * 32 >= to) break;
      const unsigned same = __match_any_sync(0xffffffffU, group[i]);
      if (group[i] < groups && (same & lower) == 0) counts[group[i]] += __popc(same);
      __syncwarp();
    }
  }
}

/// A counting sort that keeps the order. Routes are cut into equal ranges, one a block; every block
/// counts all of them, a warp a range, so that it knows the offsets and what lies before its own
/// without a word from the others, and places its own. kAlone: one block, one range.
///
/// Comparing every route with every group on one multiprocessor, as was done before, is bound by
/// issue: 32,768 routes x 32 groups x two passes 0.405 ms, and 0.243 with loads of eight routes.
/// Counting takes 1,024 steps of a warp for the same, placing 32 a block.
template <bool kAlone>
__global__ void __launch_bounds__(kPlanThreads)
    plan_kernel(const std::uint16_t* experts, int routes, int k, int range, RouteGroups g) {
  __shared__ int counts[kPlanWarps * kMaxGroups];  // [warps][g.groups]
  __shared__ int sizes[kMaxGroups];
  __shared__ int starts[kMaxGroups];
  __shared__ int used;
  const int thread = static_cast<int>(threadIdx.x);
  const int block = static_cast<int>(blockIdx.x);
  const int warp = thread / 32;
  const int lane = thread % 32;
  int* own = counts + warp * g.groups;
  int before = 0;  // of group `thread`: routes in the ranges before this block's
  const auto clear = [&] {
    for (int i = thread; i < kPlanWarps * g.groups; i += kPlanThreads) counts[i] = 0;
    __syncthreads();
  };
  clear();
  wait_for_previous();
  let_next_begin();
  if constexpr (!kAlone) {
    count_routes(experts, min(warp * range, routes), min((warp + 1) * range, routes), g.groups,
                 own);
    __syncthreads();
    if (thread < g.groups) {
      int all = 0;
      for (int w = 0; w < kPlanWarps; ++w) {
        if (w == block) before = all;
        all += counts[w * g.groups + thread];
      }
      sizes[thread] = all;
    }
    __syncthreads();
    clear();
  }
  // This block's range, a piece a warp.
  const int end = min((block + 1) * range, routes);
  const int piece = (range + kPlanThreads - 1) / kPlanThreads * 32;
  const int from = min(block * range + warp * piece, end);
  const int to = min(from + piece, end);
  count_routes(experts, from, to, g.groups, own);
  __syncthreads();
  if (thread < g.groups) {
    constexpr int kAtOnce = 8;
    int next = before;
    for (int first = 0; first < kPlanWarps; first += kAtOnce) {
      if (block * range + first * piece >= end) break;
      int mine[kAtOnce];
#pragma unroll
      for (int w = 0; w < kAtOnce; ++w) mine[w] = counts[(first + w) * g.groups + thread];
#pragma unroll
      for (int w = 0; w < kAtOnce; ++w) {
        counts[(first + w) * g.groups + thread] = next;
        next += mine[w];
      }
    }
    if constexpr (kAlone) sizes[thread] = next;
  }
  __syncthreads();
  if (warp == 0) {
    int total = 0;
    for (int base = 0; base < g.groups; base += 32) {
      const int e = base + lane;
      const int rows = e < g.groups ? padded_rows(sizes[e]) : 0;
      int sum = rows;
#pragma unroll
      for (int step = 1; step < 32; step *= 2) {
        const int other = __shfl_up_sync(0xffffffffU, sum, step);
        if (lane >= step) sum += other;
      }
      if (e < g.groups) starts[e] = total + sum - rows;
      total += __shfl_sync(0xffffffffU, sum, 31);
    }
    if (lane == 0) used = total;
  }
  __syncthreads();
  if (block == 0 && thread < g.groups) {
    const int size = sizes[thread];
    g.counts[thread] = size;
    g.offsets[thread] = starts[thread];
    for (int row = size; row < padded_rows(size); ++row) g.source[starts[thread] + row] = -1;
  }
  for (int row = used + block * kPlanThreads + thread; row < g.capacity;
       row += static_cast<int>(gridDim.x) * kPlanThreads) {
    g.source[row] = -1;
  }
  for (int base = from; base < to; base += 32) {
    const int r = base + lane;
    const int group = r < to ? experts[r] : g.groups;
    const unsigned same = __match_any_sync(0xffffffffU, group);
    const int rank = __popc(same & ((1U << lane) - 1));
    int row = 0;
    if (group < g.groups) {
      row = own[group] + rank;
      g.source[starts[group] + row] = r / k;
      g.target[starts[group] + row] = r;
    }
    __syncwarp();
    if (group < g.groups && rank == 0) own[group] = row + __popc(same);
    __syncwarp();
  }
}

/// 8 columns of a row as bf16.
__device__ uint4 load8(const float* x) {
  const float4 a = reinterpret_cast<const float4*>(x)[0];
  const float4 b = reinterpret_cast<const float4*>(x)[1];
  return {pack_bf16(a.x, a.y), pack_bf16(a.z, a.w), pack_bf16(b.x, b.y), pack_bf16(b.z, b.w)};
}
__device__ uint4 load8(const __nv_bfloat16* x) { return *reinterpret_cast<const uint4*>(x); }

/// Block (x, y): 8 rows, and of their groups of 64 columns every 4th from 4 y on in steps of all y;
/// a thread copies 8 columns at a time. source null: the same row.
template <typename T>
__global__ void tile_kernel(const T* x, int rows, int dim, const int* source, int capacity,
                            std::byte* tiled) {
  wait_for_previous();
  let_next_begin();
  const int row = static_cast<int>(blockIdx.x) * kAtomRows + static_cast<int>(threadIdx.x) / 8 % 8;
  const int from = source != nullptr ? source[row] : row < rows ? row : -1;
  if (from < 0) return;
  const int chunk = static_cast<int>(threadIdx.x) % 8;
  const int step = static_cast<int>(gridDim.y * blockDim.x) / 64;
  const int first = static_cast<int>(blockIdx.y * blockDim.x + threadIdx.x) / 64;
  for (int kb = first; kb < dim / kAtomCols; kb += step) {
    const int col = kb * kAtomCols + chunk * 8;
    *reinterpret_cast<uint4*>(tiled + tiled_byte(row, col, capacity)) =
        load8(x + static_cast<std::size_t>(from) * dim + col);
  }
}

cudaError_t tile(const void* x, bool x_is_f32, int rows, int blocks, int dim, const int* source,
                 int capacity, void* tiled, cudaStream_t stream) {
  if (dim % kAtomCols != 0 || capacity % kAtomRows != 0) return cudaErrorInvalidValue;
  auto* to = static_cast<std::byte*>(tiled);
  // Few rows are cut along the columns, or their loads would wait for each other.
  constexpr int kEnough = 512;
  const int parts = std::clamp(kEnough / std::max(blocks, 1), 1, (dim / kAtomCols + 3) / 4);
  const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(parts));
  if (x_is_f32) {
    return launch_overlapped(tile_kernel<float>, grid, 256, 0, stream, static_cast<const float*>(x),
                             rows, dim, source, capacity, to);
  }
  return launch_overlapped(tile_kernel<__nv_bfloat16>, grid, 256, 0, stream,
                           static_cast<const __nv_bfloat16*>(x), rows, dim, source, capacity, to);
}

/// Rows of expert outputs, one after the other or each at a place of its own.
struct Contiguous {
  const __nv_bfloat16* outputs;
  __device__ const __nv_bfloat16* row(std::size_t route, int dim) const {
    return outputs + route * dim;
  }
};
struct Scattered {
  const void* const* places;
  __device__ const __nv_bfloat16* row(std::size_t route, int) const {
    return static_cast<const __nv_bfloat16*>(places[route]);
  }
};

/// One thread 4 columns of one token.
template <class Rows>
__global__ void combine_kernel(const float* y, int tokens, int dim, int k, const float* weights,
                               Rows outputs, float alpha, float beta, float* out) {
  wait_for_previous();
  let_next_begin();
  const std::size_t index = blockIdx.x * std::size_t{blockDim.x} + threadIdx.x;
  const int chunks = dim / 4;
  if (index >= static_cast<std::size_t>(tokens) * chunks) return;
  const std::size_t t = index / chunks;
  const std::size_t col = index % chunks * 4;
  const float4 x = *reinterpret_cast<const float4*>(y + t * dim + col);
  float sum[4] = {};
#pragma unroll 2
  for (int s = 0; s < k; ++s) {
    const float weight = weights[t * k + s];
    const uint2 v = *reinterpret_cast<const uint2*>(outputs.row(t * k + s, dim) + col);
    sum[0] = fmaf(weight, low_bf16(v.x), sum[0]);
    sum[1] = fmaf(weight, high_bf16(v.x), sum[1]);
    sum[2] = fmaf(weight, low_bf16(v.y), sum[2]);
    sum[3] = fmaf(weight, high_bf16(v.y), sum[3]);
  }
  *reinterpret_cast<float4*>(out + t * dim + col) =
      make_float4(fmaf(alpha, x.x, beta * sum[0]), fmaf(alpha, x.y, beta * sum[1]),
                  fmaf(alpha, x.z, beta * sum[2]), fmaf(alpha, x.w, beta * sum[3]));
}

template <class Rows>
cudaError_t start_combine(const float* y, int tokens, int dim, int k, const float* weights,
                          Rows outputs, float alpha, float beta, float* out, cudaStream_t stream) {
  if (dim % 4 != 0) return cudaErrorInvalidValue;
  if (tokens == 0) return cudaSuccess;
  const std::size_t threads = static_cast<std::size_t>(tokens) * (dim / 4);
  return launch_overlapped(combine_kernel<Rows>, static_cast<unsigned>((threads + 255) / 256), 256,
                           0, stream, y, tokens, dim, k, weights, outputs, alpha, beta, out);
}

}  // namespace

void overlap_launches(bool overlap) { launches_overlap = overlap; }

cudaError_t pack_weight(const void* weight, int rows, int cols, int first_row, int interleave,
                        void* packed, cudaStream_t stream) {
  if (cols % kAtomCols != 0 || (interleave != 0 && rows % 8 != 0)) return cudaErrorInvalidValue;
  const std::size_t chunks = static_cast<std::size_t>(rows) * (cols / 8);
  const auto blocks = static_cast<unsigned>((chunks + 255) / 256);
  pack_kernel<<<blocks, 256, 0, stream>>>(static_cast<const uint4*>(weight), rows, cols, first_row,
                                          interleave, static_cast<std::byte*>(packed));
  return cudaGetLastError();
}

cudaError_t plan_groups(const std::uint16_t* experts, int tokens, int k, const RouteGroups& groups,
                        cudaStream_t stream) {
  if (groups.groups < 1 || groups.groups > kMaxGroups) return cudaErrorInvalidValue;
  const int routes = tokens * k;
  if (routes <= kPlanAlone) {
    return launch_overlapped(plan_kernel<true>, 1, kPlanThreads, 0, stream, experts, routes, k,
                             routes, groups);
  }
  const int range = (routes + kPlanThreads - 1) / kPlanThreads * 32;  // a warp's
  const int blocks = (routes + range - 1) / range;
  return launch_overlapped(plan_kernel<false>, blocks, kPlanThreads, 0, stream, experts, routes, k,
                           range, groups);
}

cudaError_t gather_tiled(const void* x, bool x_is_f32, int dim, const RouteGroups& groups,
                         void* tiled, cudaStream_t stream) {
  return tile(x, x_is_f32, 0, groups.capacity / kAtomRows, dim, groups.source, groups.capacity,
              tiled, stream);
}

cudaError_t tile_rows(const void* x, bool x_is_f32, int rows, int dim, int capacity, void* tiled,
                      cudaStream_t stream) {
  return tile(x, x_is_f32, rows, (rows + kAtomRows - 1) / kAtomRows, dim, nullptr, capacity, tiled,
              stream);
}

cudaError_t combine(const float* y, int tokens, int dim, int k, const float* weights,
                    const void* outputs, float alpha, float beta, float* out, cudaStream_t stream) {
  return start_combine(y, tokens, dim, k, weights,
                       Contiguous{static_cast<const __nv_bfloat16*>(outputs)}, alpha, beta, out,
                       stream);
}

cudaError_t combine_places(const float* y, int tokens, int dim, int k, const float* weights,
                           const void* const* outputs, float alpha, float beta, float* out,
                           cudaStream_t stream) {
  return start_combine(y, tokens, dim, k, weights, Scattered{outputs}, alpha, beta, out, stream);
}

}  // namespace fulgur::kernels::cuda
