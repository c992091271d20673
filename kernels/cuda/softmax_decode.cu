// Paged grouped-query attention for one token a sequence, and the rotation that feeds the cache.
//
// What and why. Decode reads every key and value once: 4 KiB a position and layer. So the only aim
// is to keep the copy engine busy: each warp is on its own, with a ring of three 16 KiB pieces
// (keys or values of a page and kv head are contiguous) and no barrier with other warps. The 8
// query heads of a kv head are the rows of one mma tile.
//
// Exact: pages are worked on in position order, each from zero: (max, sum, output) of a page are
// merged into the split's, splits of kSplit absolute positions are merged in order by merge_kernel.
// A row's result depends on its own length alone, not on company or on which warp works.
//
// Traffic. KV once; partials 4 KiB a split and kv head, 1.6 % of it, mostly L2.
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>

#include "kernels/cuda/device.hpp"
#include "kernels/cuda/launch.hpp"
#include "kernels/cuda/layout.hpp"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/softmax.cuh"

namespace fulgur::kernels::cuda {
namespace {

constexpr int kWarps = 4;
constexpr int kRing = 3;
constexpr int kMaxSequences = kSoftmaxDecodeRows;
constexpr int kSharedBytes = kWarps * kRing * kPiece + 1024;
constexpr int kMergeThreads = 512;
constexpr int kMergeFloats = 8192;  ///< partial values in shared memory at once
constexpr int kPartialFloats = kGroup * (kHeadDim + 2);

/// One split of one sequence and kv head.
struct Item {
  int sequence;
  int split;
  int kv_head;
  int length;  ///< of the sequence
  int pages;   ///< of the split
};

/// Walks this warp's items: starts[s] = items before sequence s.
class ItemWalk {
 public:
  __device__ ItemWalk(const SoftmaxDecode& call, const int* starts, int first, int stride)
      : call_(call), starts_(starts), next_(first), stride_(stride) {}

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
  const int* starts_;
  int next_;
  int stride_;
  int sequence_ = 0;
};

/// The warp's ring: issues pieces (keys, values, keys, ...) of its items in order, ahead of use.
class PieceRing {
 public:
  __device__ PieceRing(const SoftmaxDecode& call, const ItemWalk& walk, std::uint32_t data,
                       std::uint32_t barriers)
      : call_(call), walk_(walk), data_(data), barriers_(barriers) {
    more_ = walk_.next(item_);
  }

  /// Starts the next copy, if any is left; its place in the ring must be free. One lane copies.
  __device__ void issue(int lane) {
    if (!more_) return;
    const std::uint32_t place = issued_ % kRing;
    if (lane == 0) {
      const int table = call_.sequence != nullptr ? call_.sequence[item_.sequence] : item_.sequence;
      const int page = call_.page_table[static_cast<std::size_t>(table) * call_.table_stride +
                                        item_.split * (kSplit / kBlock) + piece_ / 2];
      const auto* from =
          static_cast<const std::byte*>(call_.pages) +
          ((static_cast<std::size_t>(page) * call_.kv_heads + item_.kv_head) * 2 + piece_ % 2) *
              kPiece;
      const std::uint32_t barrier = barriers_ + place * 8;
      barrier_expect(barrier, kPiece);
      bulk_copy(data_ + place * kPiece, from, kPiece, barrier, evict_first_policy());
    }
    ++issued_;
    if (++piece_ == 2 * item_.pages) {
      piece_ = 0;
      more_ = walk_.next(item_);
    }
  }

  /// Waits for the next piece; returns its shared address.
  __device__ std::uint32_t wait() {
    const std::uint32_t place = used_ % kRing;
    barrier_wait(barriers_ + place * 8, used_ / kRing & 1);
    ++used_;
    return data_ + place * kPiece;
  }

 private:
  const SoftmaxDecode& call_;
  ItemWalk walk_;
  std::uint32_t data_;
  std::uint32_t barriers_;
  Item item_{};
  bool more_;
  int piece_ = 0;
  std::uint32_t issued_ = 0;
  std::uint32_t used_ = 0;
};

/// One token's 8 query heads, as the upper half of left operands of 16 rows.
struct Queries {
  std::uint32_t q[8][2];

  /// Row `row` of [rows, 128] bf16 is this lane's head.
  __device__ __forceinline__ void load(const void* rows, std::size_t row, int lane) {
    const auto* query = static_cast<const std::uint32_t*>(rows) + row * (kHeadDim / 2);
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      q[k][0] = query[k * 8 + lane % 4];
      q[k][1] = query[k * 8 + 4 + lane % 4];
    }
  }
};

/// Running result of a split; a lane holds head lane / 4, dims 8 n + 2 (lane % 4) + {0, 1}.
struct Running {
  Seen seen;
  float out[kHeadDim / 8][2];
};

/// Scores of a page, -inf from position `valid` on.
__device__ __forceinline__ void score_page(const Queries& queries, std::uint32_t keys, int valid,
                                           int lane, float (&score)[8][2]) {
#pragma unroll
  for (int n = 0; n < 8; ++n) {
    float dots[4] = {};
#pragma unroll
    for (int k = 0; k < 8; k += 2) {
      std::uint32_t b[4];
      load_matrices(b, keys + page_chunk_byte(n * 8 + lane % 8, k * 2 + lane / 8));
      const std::uint32_t a0[4] = {queries.q[k][0], 0, queries.q[k][1], 0};
      const std::uint32_t a1[4] = {queries.q[k + 1][0], 0, queries.q[k + 1][1], 0};
      mma(dots, a0, b[0], b[1]);
      mma(dots, a1, b[2], b[3]);
    }
    const int position = n * 8 + lane % 4 * 2;
    score[n][0] = score_of(dots[0], position < valid);
    score[n][1] = score_of(dots[1], position + 1 < valid);
  }
}

/// Adds a page to `run`: its weights from the scores, times its values.
__device__ __forceinline__ void add_page(float (&score)[8][2], std::uint32_t values, int lane,
                                         Running& run) {
  const float scale = weigh_page(score, run.seen);
  std::uint32_t a[4][4];
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    a[j][0] = pack_bf16(score[2 * j][0], score[2 * j][1]);
    a[j][2] = pack_bf16(score[2 * j + 1][0], score[2 * j + 1][1]);
    a[j][1] = a[j][3] = 0;
  }
#pragma unroll
  for (int n = 0; n < 16; n += 2) {
    float sum[2][4];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      sum[i][0] = run.out[n + i][0] * scale;
      sum[i][1] = run.out[n + i][1] * scale;
      sum[i][2] = sum[i][3] = 0;
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      std::uint32_t b[4];
      load_matrices_transposed(b, values + page_chunk_byte(j * 16 + lane % 16, n + lane / 16));
      mma(sum[0], a[j], b[0], b[1]);
      mma(sum[1], a[j], b[2], b[3]);
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      run.out[n + i][0] = sum[i][0];
      run.out[n + i][1] = sum[i][1];
    }
  }
}

__device__ std::size_t partial_index(const SoftmaxDecode& call, int splits_max, int sequence,
                                     int split, int kv_head) {
  return ((static_cast<std::size_t>(sequence) * splits_max + split) * call.kv_heads + kv_head) *
         kPartialFloats;
}

__device__ void work_items(const SoftmaxDecode& call, int splits_max, ItemWalk walk,
                           PieceRing& ring, int lane) {
  for (int i = 0; i < kRing; ++i) ring.issue(lane);
  Item item;
  while (walk.next(item)) {
    const int head = item.kv_head * kGroup + lane / 4;
    Queries q;
    q.load(call.q, static_cast<std::size_t>(item.sequence) * call.heads + head, lane);
    Running run{};
    for (int page = 0; page < item.pages; ++page) {
      const int valid = min(item.length - item.split * kSplit - page * kBlock, kBlock);
      float score[8][2];
      score_page(q, ring.wait(), valid, lane, score);
      __syncwarp();
      ring.issue(lane);
      const std::uint32_t values = ring.wait();
      if (valid < kBlock) {
        clear_tail(values, valid, lane, 32);
        __syncwarp();
      }
      add_page(score, values, lane, run);
      if (valid < kBlock) async_proxy_fence();
      __syncwarp();
      ring.issue(lane);
    }
    float* to =
        call.partial + partial_index(call, splits_max, item.sequence, item.split, item.kv_head);
#pragma unroll
    for (int n = 0; n < 16; ++n) {
      *reinterpret_cast<float2*>(to + lane / 4 * kHeadDim + n * 8 + lane % 4 * 2) =
          make_float2(run.out[n][0], run.out[n][1]);
    }
    if (lane % 4 == 0) {
      *reinterpret_cast<float2*>(to + kGroup * kHeadDim + lane / 4 * 2) =
          make_float2(run.seen.max, run.seen.sum);
    }
  }
}

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
  const ItemWalk walk(call, starts, first, static_cast<int>(gridDim.x) * kWarps);
  const std::uint32_t data = ((shared_address(dynamic) + 1023U) & ~1023U) + warp * kRing * kPiece;
  PieceRing ring(call, walk, data, shared_address(barriers + warp * kRing));
  work_items(call, splits_max, walk, ring, lane);
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
  const float* part = call.partial + partial_index(call, splits_max, sequence, 0, head / kGroup);
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

std::size_t softmax_scratch_bytes(int count, int heads, int lengths_max) {
  return static_cast<std::size_t>(count) * splits_of(lengths_max) * (heads / kGroup) *
         kPartialFloats * sizeof(float);
}

cudaError_t softmax_decode(const SoftmaxDecode& call, cudaStream_t stream) {
  if (call.count == 0) return cudaSuccess;
  if (call.count > kMaxSequences || call.heads != kGroup * call.kv_heads)
    return cudaErrorInvalidValue;
  static const cudaError_t ready = cudaFuncSetAttribute(
      decode_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
  if (ready != cudaSuccess) return ready;
  const int splits_max = splits_of(call.lengths_max);
  decode_kernel<<<multiprocessors(), 32 * kWarps, kSharedBytes, stream>>>(call, splits_max);
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
