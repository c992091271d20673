// Paged grouped-query attention for one token a sequence, and the rotation that feeds the cache.
//
// What and why. Decode reads every key and value once: 4 KiB a position and layer. So the only aim
// is to keep the copy engine busy: each warp is on its own, with a ring of three 16 KiB pieces
// (keys or values of a page and kv head are contiguous) and no barrier with other warps. The 8
// query heads of a kv head are the rows of one mma tile.
//
// Exact: pages are worked on in position order, each from zero: (max, sum, output) of a page are
// merged into the split's, splits of kSplit absolute positions are merged in order by merge_kernel.
// A row's result depends on its own length alone, not on company or on which warp works. (Free
// sums: softmax_free.cu.)
//
// Traffic. KV once; partials 4 KiB a split and kv head, 1.6 % of it, mostly L2.
#include <cuda_runtime.h>

#include <algorithm>

#include "kernels/cuda/device.hpp"
#include "kernels/cuda/launch.hpp"
#include "kernels/cuda/layout.hpp"
#include "kernels/cuda/softmax_decode.cuh"

namespace fulgur::kernels::cuda {
namespace {

constexpr int kWarps = kDecodeWarps;
constexpr int kMaxSequences = kSoftmaxDecodeRows;
constexpr int kMergeThreads = 512;
constexpr int kMergeFloats = 8192;  ///< partial values in shared memory at once

/// One split of one sequence and kv head.
struct SplitItem {
  int sequence;
  int split;
  int kv_head;
  int length;  ///< of the sequence
  int pages;   ///< of the split

  __device__ __forceinline__ int first_page() const { return split * (kSplit / kBlock); }
};

__device__ std::size_t partial_index(const SoftmaxDecode& call, int splits_max, int sequence,
                                     int split, int kv_head) {
  return (static_cast<std::size_t>(sequence) * splits_max + split) * call.kv_heads + kv_head;
}

/// Walks this warp's items: starts[s] = items before sequence s.
class ItemWalk {
 public:
  using Item = SplitItem;

  __device__ ItemWalk(const SoftmaxDecode& call, int splits_max, const int* starts, int first,
                      int stride)
      : call_(call), splits_max_(splits_max), starts_(starts), next_(first), stride_(stride) {}

  __device__ std::size_t slot(const Item& item) const {
    return partial_index(call_, splits_max_, item.sequence, item.split, item.kv_head);
  }
  __device__ bool next(Item& item) {
    const int index = next_;
    next_ += stride_;
    if (index >= starts_[call_.count]) return false;
    while (index >= starts_[sequence_ + 1]) ++sequence_;
    const int local = index - starts_[sequence_];
    item.sequence = sequence_;
    item.split = local / call_.kv_heads;
    item.kv_head = local % call_.kv_heads;
    item.length = call_.lengths[sequence_];
    item.pages = (min(item.length - item.split * kSplit, kSplit) + kBlock - 1) / kBlock;
    return true;
  }

 private:
  const SoftmaxDecode& call_;
  int splits_max_;
  const int* starts_;
  int next_;
  int stride_;
  int sequence_ = 0;
};

__global__ __launch_bounds__(32 * kWarps,
                             1) void decode_kernel(const __grid_constant__ SoftmaxDecode call,
                                                   int splits_max) {
  extern __shared__ std::byte dynamic[];
  __shared__ int starts[kMaxSequences + 1];
  __shared__ alignas(8) std::uint64_t barriers[kWarps * kRing];
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  if (threadIdx.x < kWarps * kRing) barrier_init(shared_address(barriers + threadIdx.x), 1);
  if (threadIdx.x == 0) barrier_init_fence();
  if (warp == 0) {
    int before = 0;
    for (int base = 0; base < call.count; base += 32) {
      const int s = base + lane;
      const int items =
          s < call.count ? (call.lengths[s] + kSplit - 1) / kSplit * call.kv_heads : 0;
      int sum = items;
      for (int step = 1; step < 32; step *= 2) {
        const int other = __shfl_up_sync(0xffffffffU, sum, step);
        if (lane >= step) sum += other;
      }
      if (s < call.count) starts[s] = before + sum - items;
      before += __shfl_sync(0xffffffffU, sum, 31);
    }
    if (lane == 0) starts[call.count] = before;
  }
  __syncthreads();
  const int first = static_cast<int>(blockIdx.x) * kWarps + warp;
  const ItemWalk walk(call, splits_max, starts, first, static_cast<int>(gridDim.x) * kWarps);
  const std::uint32_t data = ((shared_address(dynamic) + 1023U) & ~1023U) + warp * kRing * kPiece;
  PieceRing<ItemWalk> ring(call, walk, data, shared_address(barriers + warp * kRing));
  work_items(call, walk, ring, lane);
}

/// One block a (sequence, head, kDims dims): splits merged in position order. Groups of kDims
/// threads fetch a batch of partials at once; the first group merges it. Few dims make a long
/// sequence cost one trip to memory; many dims make fewer blocks for short ones.
template <int kDims>
__global__ __launch_bounds__(kMergeThreads) void merge_kernel(
    const __grid_constant__ SoftmaxDecode call, int splits_max) {
  constexpr int kBatch = kMergeFloats / kDims;
  constexpr int kParts = kHeadDim / kDims;
  __shared__ float values[kBatch][kDims];
  __shared__ float2 stats[kBatch];
  const int row_of_call = static_cast<int>(blockIdx.x) / kParts;
  const int d = static_cast<int>(threadIdx.x) % kDims;
  const int dim = static_cast<int>(blockIdx.x) % kParts * kDims + d;
  const int sequence = row_of_call / call.heads;
  const int head = row_of_call % call.heads;
  const int group = static_cast<int>(threadIdx.x) / kDims;
  const int splits = (call.lengths[sequence] + kSplit - 1) / kSplit;
  const float* part =
      call.partial + partial_index(call, splits_max, sequence, 0, head / kGroup) * kPartialFloats;
  const std::size_t stride = static_cast<std::size_t>(call.kv_heads) * kPartialFloats;
  const int row = head % kGroup;
  float max = -INFINITY, sum = 0, out = 0;
  for (int base = 0; base < splits; base += kBatch) {
    const int batch = min(kBatch, splits - base);
    __syncthreads();
#pragma unroll
    for (int n = 0; n < kBatch * kDims / kMergeThreads; ++n) {
      const int s = n * (kMergeThreads / kDims) + group;
      if (s >= batch) break;
      const float* from = part + (base + s) * stride;
      values[s][d] = from[row * kHeadDim + dim];
      if (d == 0) stats[s] = *reinterpret_cast<const float2*>(from + kGroup * kHeadDim + row * 2);
    }
    __syncthreads();
    if (group != 0) continue;
#pragma unroll 8
    for (int s = 0; s < batch; ++s) {
      const Scales scales = merge_scales(max, stats[s].x);
      sum = merged(sum, stats[s].y, scales);
      out = merged(out, values[s][d], scales);
    }
  }
  if (group == 0) {
    static_cast<__nv_bfloat16*>(call.out)[static_cast<std::size_t>(row_of_call) * kHeadDim + dim] =
        __float2bfloat16_rn(out / sum);
  }
}

/// Block (row, part): every gridDim.y-th of the row's elements in groups of the block's threads.
__global__ void rotary_kernel(const __nv_bfloat16* qkv, int heads, int kv_heads, int half,
                              const float* frequencies, const int* sequence, const int* position,
                              const int* page_table, int table_stride, std::byte* pages,
                              __nv_bfloat16* q_out) {
  __shared__ float cosine[kHeadDim / 2];
  __shared__ float sine[kHeadDim / 2];
  const int row = static_cast<int>(blockIdx.x);
  const int at = position[row];
  const int all = heads + 2 * kv_heads;
  for (int j = static_cast<int>(threadIdx.x); j < half; j += static_cast<int>(blockDim.x)) {
    sincosf(static_cast<float>(at) * frequencies[j], &sine[j], &cosine[j]);
  }
  __syncthreads();
  const int page = page_table[static_cast<std::size_t>(sequence[row]) * table_stride + at / kBlock];
  for (int n = static_cast<int>(blockIdx.y * blockDim.x + threadIdx.x); n < all * kHeadDim;
       n += static_cast<int>(gridDim.y * blockDim.x)) {
    const int h = n / kHeadDim;
    const int d = n % kHeadDim;
    const __nv_bfloat16* x = qkv + (static_cast<std::size_t>(row) * all + h) * kHeadDim;
    __nv_bfloat16 value = x[d];
    if (h < heads + kv_heads && d < 2 * half) {
      const int j = d % half;
      const float own = __bfloat162float(x[d]);
      const float other = __bfloat162float(x[d < half ? d + half : d - half]);
      value = __float2bfloat16_rn(d < half ? own * cosine[j] - other * sine[j]
                                           : own * cosine[j] + other * sine[j]);
    }
    if (h < heads) {
      q_out[(static_cast<std::size_t>(row) * heads + h) * kHeadDim + d] = value;
    } else {
      const int kv = (h - heads) % kv_heads;
      const int which = h < heads + kv_heads ? 0 : 1;
      std::byte* piece =
          pages + ((static_cast<std::size_t>(page) * kv_heads + kv) * 2 + which) * kPiece;
      *reinterpret_cast<__nv_bfloat16*>(piece + page_chunk_byte(at % kBlock, d / 8) + d % 8 * 2) =
          value;
    }
  }
}

int splits_of(int length) { return (length + kSplit - 1) / kSplit; }

}  // namespace

std::size_t softmax_scratch_bytes(int count, int heads, int lengths_max, Sums sums) {
  if (sums == Sums::free) return softmax_free_scratch_bytes(count, heads);
  return static_cast<std::size_t>(count) * splits_of(lengths_max) * (heads / kGroup) *
         kPartialFloats * sizeof(float);
}

cudaError_t softmax_decode(const SoftmaxDecode& call, cudaStream_t stream) {
  if (call.count == 0) return cudaSuccess;
  if (call.count > kMaxSequences || call.heads != kGroup * call.kv_heads)
    return cudaErrorInvalidValue;
  if (call.sums == Sums::free) return softmax_decode_free(call, stream);
  static const cudaError_t ready = cudaFuncSetAttribute(
      decode_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kDecodeSharedBytes);
  if (ready != cudaSuccess) return ready;
  const int splits_max = splits_of(call.lengths_max);
  decode_kernel<<<multiprocessors(), 32 * kWarps, kDecodeSharedBytes, stream>>>(call, splits_max);
  const int rows = call.count * call.heads;
  if (splits_max > 32) {
    merge_kernel<32><<<rows*(kHeadDim / 32), kMergeThreads, 0, stream>>>(call, splits_max);
  } else {
    merge_kernel<kHeadDim><<<rows, kMergeThreads, 0, stream>>>(call, splits_max);
  }
  return cudaGetLastError();
}

cudaError_t rotary_cache(const void* qkv, int rows, int heads, int kv_heads, int rotary_dim,
                         const float* frequencies, const int* sequence, const int* position,
                         const int* page_table, int table_stride, void* pages, void* q_out,
                         cudaStream_t stream) {
  if (rows == 0) return cudaSuccess;
  const int elements = (heads + 2 * kv_heads) * kHeadDim;
  const int parts = std::clamp(1024 / rows, 1, (elements + 255) / 256);
  const dim3 grid(static_cast<unsigned>(rows), static_cast<unsigned>(parts));
  rotary_kernel<<<grid, 256, 0, stream>>>(static_cast<const __nv_bfloat16*>(qkv), heads, kv_heads,
                                          rotary_dim / 2, frequencies, sequence, position,
                                          page_table, table_stride, static_cast<std::byte*>(pages),
                                          static_cast<__nv_bfloat16*>(q_out));
  return cudaGetLastError();
}

}  // namespace fulgur::kernels::cuda
