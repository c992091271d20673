// Paged attention for one token a sequence with free sums: as softmax_decode.cu, but splits end
// where the work of a warp ends, not at multiples of 512 positions. To measure what exact mode
// costs.
//
// What and why. The pages of all sequences and KV heads are one row, cut into equal stretches, one
// a warp (shares.hpp): no warp idles while others work on a last item, a short call uses all warps,
// and a long one leaves a partial result or two for each sequence and KV head instead of one for
// every 512 positions. These, in whatever number, are merged by several warps at once.
//
// Partial results. A stretch and a pair of sequence and KV head meet once at most, and going along
// the row either the pair's number or the warp's grows by one: so their sum is a slot of its own,
// and a pair's slots follow each other.
#include <cuda_runtime.h>

#include "kernels/cuda/device.hpp"
#include "kernels/cuda/launch.hpp"
#include "kernels/cuda/layout.hpp"
#include "kernels/cuda/shares.hpp"
#include "kernels/cuda/softmax_decode.cuh"

namespace fulgur::kernels::cuda {
namespace {

constexpr int kMaxSequences = kSoftmaxDecodeRows;

/// Some pages of one sequence and KV head.
struct StretchItem {
  int sequence;
  int kv_head;
  int length;  ///< of the sequence
  int first;   ///< page of the sequence
  int pages;

  __device__ __forceinline__ int first_page() const { return first; }
};

/// Walks a warp's stretch; starts[s] = pages before sequence s, of all its KV heads.
class StretchWalk {
 public:
  using Item = StretchItem;

  __device__ StretchWalk(const SoftmaxDecode& call, const int* starts, int warp, int warps)
      : call_(call), starts_(starts), warp_(warp) {
    const int all = starts[call.count];
    const int working = min(warps, all);
    at_ = end_ = all;
    if (warp >= working) return;
    at_ = static_cast<int>(pages_before(all, working, warp));
    end_ = static_cast<int>(pages_before(all, working, warp + 1));
  }

  __device__ std::size_t slot(const Item& item) const {
    return static_cast<std::size_t>(item.sequence) * call_.kv_heads + item.kv_head + warp_;
  }
  __device__ bool next(Item& item) {
    if (at_ >= end_) return false;
    while (at_ >= starts_[sequence_ + 1]) ++sequence_;
    item.sequence = sequence_;
    item.length = call_.lengths[sequence_];
    const int pages = (item.length + kBlock - 1) / kBlock;
    const int local = at_ - starts_[sequence_];
    item.kv_head = local / pages;
    item.first = local % pages;
    item.pages = min(pages - item.first, end_ - at_);
    at_ += item.pages;
    return true;
  }

 private:
  const SoftmaxDecode& call_;
  const int* starts_;
  int warp_;
  int at_;
  int end_;
  int sequence_ = 0;
};

/// starts_out [count + 1]: for the merge.
__global__ __launch_bounds__(32 * kDecodeWarps,
                             1) void stretch_kernel(const __grid_constant__ SoftmaxDecode call,
                                                    int* starts_out) {
  extern __shared__ std::byte dynamic[];
  __shared__ int starts[kMaxSequences + 1];
  __shared__ alignas(8) std::uint64_t barriers[kDecodeWarps * kRing];
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  if (threadIdx.x < kDecodeWarps * kRing) barrier_init(shared_address(barriers + threadIdx.x), 1);
  if (threadIdx.x == 0) barrier_init_fence();
  if (warp == 0) {
    int before = 0;
    for (int base = 0; base < call.count; base += 32) {
      const int s = base + lane;
      const int pages =
          s < call.count ? (call.lengths[s] + kBlock - 1) / kBlock * call.kv_heads : 0;
      int sum = pages;
      for (int step = 1; step < 32; step *= 2) {
        const int other = __shfl_up_sync(0xffffffffU, sum, step);
        if (lane >= step) sum += other;
      }
      if (s < call.count) starts[s] = before + sum - pages;
      before += __shfl_sync(0xffffffffU, sum, 31);
    }
    if (lane == 0) starts[call.count] = before;
  }
  __syncthreads();
  if (blockIdx.x == 0) {
    for (int s = static_cast<int>(threadIdx.x); s <= call.count; s += 32 * kDecodeWarps) {
      starts_out[s] = starts[s];
    }
  }
  // Neighbours in the row lie in different blocks: when there are fewer pages than warps, every
  // multiprocessor has some.
  const int number = warp * static_cast<int>(gridDim.x) + static_cast<int>(blockIdx.x);
  const StretchWalk walk(call, starts, number, static_cast<int>(gridDim.x) * kDecodeWarps);
  const std::uint32_t data = ((shared_address(dynamic) + 1023U) & ~1023U) + warp * kRing * kPiece;
  PieceRing<StretchWalk> ring(call, walk, data, shared_address(barriers + warp * kRing));
  work_items(call, walk, ring, lane);
}

/// What several partial results of a head come to; a lane has 4 dims of the output.
struct Merged {
  float max = -INFINITY;
  float sum = 0;
  float4 out = {0, 0, 0, 0};

  __device__ __forceinline__ void add(float2 stats, float4 other) {
    const Scales scales = merge_scales(max, stats.x);
    sum = merged(sum, stats.y, scales);
    out.x = merged(out.x, other.x, scales);
    out.y = merged(out.y, other.y, scales);
    out.z = merged(out.z, other.z, scales);
    out.w = merged(out.w, other.w, scales);
  }
};

/// One block a (sequence, head), whose warps take every kMergeWarps-th partial result. warps: those
/// of stretch_kernel.
template <int kMergeWarps>
__global__ __launch_bounds__(32 * kMergeWarps) void merge_free_kernel(
    const __grid_constant__ SoftmaxDecode call, const int* starts, int warps) {
  __shared__ float4 outs[kMergeWarps][32];
  __shared__ float2 stats[kMergeWarps];
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int row_of_call = static_cast<int>(blockIdx.x);
  const int sequence = row_of_call / call.heads;
  const int head = row_of_call % call.heads;
  const int row = head % kGroup;
  const int kv_head = head / kGroup;
  const int all = starts[call.count];
  const int start = starts[sequence];
  const int pages = (starts[sequence + 1] - start) / call.kv_heads;
  const int working = min(warps, all);
  const int first = warp_of(all, working, start + kv_head * pages);
  const int last = warp_of(all, working, start + (kv_head + 1) * pages - 1);
  const float* part =
      call.partial +
      (static_cast<std::size_t>(sequence) * call.kv_heads + kv_head + first) * kPartialFloats;
  Merged mine;
#pragma unroll 4
  for (int n = warp; n <= last - first; n += kMergeWarps) {
    const float* from = part + static_cast<std::size_t>(n) * kPartialFloats;
    mine.add(*reinterpret_cast<const float2*>(from + kGroup * kHeadDim + row * 2),
             *reinterpret_cast<const float4*>(from + row * kHeadDim + lane * 4));
  }
  if constexpr (kMergeWarps > 1) {
    outs[warp][lane] = mine.out;
    if (lane == 0) stats[warp] = make_float2(mine.max, mine.sum);
    __syncthreads();
    if (warp != 0) return;
    // A warp without a part has nothing to add, and -inf less -inf is no scale.
    for (int w = 1; w < kMergeWarps && w <= last - first; ++w) mine.add(stats[w], outs[w][lane]);
  }
  auto* to = static_cast<std::uint32_t*>(call.out) +
             static_cast<std::size_t>(row_of_call) * (kHeadDim / 2) + lane * 2;
  *reinterpret_cast<uint2*>(to) =
      make_uint2(pack_bf16(mine.out.x / mine.sum, mine.out.y / mine.sum),
                 pack_bf16(mine.out.z / mine.sum, mine.out.w / mine.sum));
}

template <int kMergeWarps>
void merge(const SoftmaxDecode& call, const int* starts, int warps, cudaStream_t stream) {
  merge_free_kernel<kMergeWarps>
      <<<call.count * call.heads, 32 * kMergeWarps, 0, stream>>>(call, starts, warps);
}

std::size_t partial_floats(int count, int kv_heads) {
  return (static_cast<std::size_t>(count) * kv_heads + multiprocessors() * kDecodeWarps) *
         kPartialFloats;
}

}  // namespace

std::size_t softmax_free_scratch_bytes(int count, int heads) {
  return partial_floats(count, heads / kGroup) * sizeof(float) +
         (static_cast<std::size_t>(count) + 1) * sizeof(int);
}

cudaError_t softmax_decode_free(const SoftmaxDecode& call, cudaStream_t stream) {
  static const cudaError_t ready = cudaFuncSetAttribute(
      stretch_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kDecodeSharedBytes);
  if (ready != cudaSuccess) return ready;
  const int blocks = multiprocessors();
  auto* starts = reinterpret_cast<int*>(call.partial + partial_floats(call.count, call.kv_heads));
  stretch_kernel<<<blocks, 32 * kDecodeWarps, kDecodeSharedBytes, stream>>>(call, starts);
  // Few rows have many partial results each, and leave multiprocessors to merge them.
  if (call.count <= 4) {
    merge<16>(call, starts, blocks * kDecodeWarps, stream);
  } else if (call.count <= 32) {
    merge<4>(call, starts, blocks * kDecodeWarps, stream);
  } else {
    merge<1>(call, starts, blocks * kDecodeWarps, stream);
  }
  return cudaGetLastError();
}

}  // namespace fulgur::kernels::cuda
