// Paged grouped-query attention for chunks of prompts: the same sums as softmax_decode.cu, for 16
// consecutive tokens at a time.
//
// What and why. A block owns 16 tokens of one sequence and one KV head; a warp two of the tokens,
// whose 2 x 8 query heads fill an mma tile of 16 rows. The block's warps share each page (32 KiB of
// keys and values) through a ring that the copy engine fills two pages ahead, so that KV is read
// once for 16 tokens instead of once a token. Pages in position order; at the end of each split of
// 512 positions its result is merged into the row's total, as merge_kernel of decode does, so that
// a token has the same bits whether it came in a chunk or alone (softmax.cuh). Causal: a token
// takes what is valid of a page for it, and nothing of later pages.
//
// Traffic. KV of the visible positions once a block, mostly from L2 (the blocks of a sequence run
// over the same pages); work is bound by mma.sync: 128 of them a warp and page.
#include <cuda_runtime.h>

#include "kernels/cuda/launch.hpp"
#include "kernels/cuda/softmax.cuh"

namespace fulgur::kernels::cuda {
namespace {

constexpr int kWarps = kSoftmaxTileRows / 2;
constexpr int kThreads = 32 * kWarps;
constexpr int kStages = 3;
constexpr int kPageBytes = 2 * kPiece;
constexpr int kTotalFloats = 2 + kHeadDim / 4;  ///< a thread's share of a row's total
constexpr int kTotalBytes = 2 * kTotalFloats * kThreads * 4;
constexpr int kSharedBytes = kStages * kPageBytes + kTotalBytes + 1024;
constexpr int kPagesPerSplit = kSplit / kBlock;

/// Thread 0: starts the copy of a page of the sequence into its place of the ring.
__device__ void issue(const SoftmaxPrefill& call, const SoftmaxTile& tile, int page,
                      std::uint32_t data, std::uint32_t barriers) {
  const int stage = page % kStages;
  const int number =
      call.page_table[static_cast<std::size_t>(tile.table) * call.table_stride + page];
  const auto* from = static_cast<const std::byte*>(call.pages) +
                     (static_cast<std::size_t>(number) * call.kv_heads + blockIdx.y) * kPageBytes;
  barrier_expect(barriers + stage * 8, kPageBytes);
  bulk_copy(data + stage * kPageBytes, from, kPageBytes, barriers + stage * 8,
            evict_normal_policy());
}

/// A token's total over its splits, this thread's share, in shared memory: registers are all taken,
/// and it is touched once in 512 positions. Values of one kind lie together over the threads.
class Total {
 public:
  __device__ Total(float* totals, int token)
      : mine_(totals + token * kTotalFloats * kThreads + threadIdx.x) {
    at(0) = -INFINITY;
#pragma unroll
    for (int i = 1; i < kTotalFloats; ++i) at(i) = 0;
  }

  /// The split's result joins, and the next split starts.
  __device__ __forceinline__ void merge(Running& run) {
    float max = at(0);
    float old_scale, new_scale;
    merge_scales(max, run.max, old_scale, new_scale);
    at(0) = max;
    at(1) = merged(at(1), old_scale, run.sum, new_scale);
#pragma unroll
    for (int n = 0; n < kHeadDim / 8; ++n) {
      at(2 + 2 * n) = merged(at(2 + 2 * n), old_scale, run.out[n][0], new_scale);
      at(3 + 2 * n) = merged(at(3 + 2 * n), old_scale, run.out[n][1], new_scale);
    }
    run = {-INFINITY, 0, {}};
  }
  __device__ __forceinline__ void store(__nv_bfloat16* row, int lane) {
    const float sum = at(1);
#pragma unroll
    for (int n = 0; n < kHeadDim / 8; ++n) {
      *reinterpret_cast<std::uint32_t*>(row + n * 8 + lane % 4 * 2) =
          pack_bf16(at(2 + 2 * n) / sum, at(3 + 2 * n) / sum);
    }
  }

 private:
  __device__ __forceinline__ float& at(int i) { return mine_[i * kThreads]; }
  float* mine_;
};

__global__ __launch_bounds__(kThreads,
                             1) void prefill_kernel(const __grid_constant__ SoftmaxPrefill call) {
  extern __shared__ std::byte dynamic[];
  __shared__ alignas(8) std::uint64_t full[kStages];
  const SoftmaxTile tile = call.tiles[blockIdx.x];
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  auto* totals = reinterpret_cast<float*>(dynamic);
  const std::uint32_t data = (shared_address(dynamic) + kTotalBytes + 1023U) & ~1023U;
  const std::uint32_t barriers = shared_address(full);
  const int end = tile.position + tile.rows;
  const int pages = (end + kBlock - 1) / kBlock;
  if (threadIdx.x == 0) {
    for (int s = 0; s < kStages; ++s) barrier_init(barriers + s * 8, 1);
    barrier_init_fence();
    for (int page = 0; page < min(kStages, pages); ++page) issue(call, tile, page, data, barriers);
  }
  const int head = static_cast<int>(blockIdx.y) * kGroup + lane / 4;
  Queries<2> queries;
  Running run[2];
  Total total[2] = {Total(totals, 0), Total(totals, 1)};
  int length[2];  // positions a token sees; 0: the tile has no such token
#pragma unroll
  for (int t = 0; t < 2; ++t) {
    const int token = 2 * warp + t;
    run[t] = {-INFINITY, 0, {}};
    length[t] = token < tile.rows ? tile.position + token + 1 : 0;
    if (length[t] > 0) {
      queries.load(t, call.q, static_cast<std::size_t>(tile.row + token) * call.heads + head, lane);
    } else {
      queries.clear(t);
    }
  }
  __syncthreads();
  for (int page = 0; page < pages; ++page) {
    const int stage = page % kStages;
    const std::uint32_t keys = data + stage * kPageBytes;
    const std::uint32_t values = keys + kPiece;
    const int first = page * kBlock;
    barrier_wait(barriers + stage * 8, page / kStages & 1);
    if (end - first < kBlock) {  // the last page: nothing is copied after it
      clear_tail(values, end - first, static_cast<int>(threadIdx.x), kThreads);
      __syncthreads();
    }
    const int valid[2] = {min(length[0] - first, kBlock), min(length[1] - first, kBlock)};
    if (valid[0] > 0 || valid[1] > 0) {
      float score[2][8][2];
      score_page(queries, keys, valid, lane, score);
      add_page(score, values, valid, lane, run);
    }
    const bool split_ends = (page + 1) % kPagesPerSplit == 0 || page + 1 == pages;
#pragma unroll
    for (int t = 0; t < 2; ++t) {
      if (split_ends && length[t] > page / kPagesPerSplit * kSplit) total[t].merge(run[t]);
    }
    __syncthreads();  // everybody has read the page
    if (threadIdx.x == 0 && page + kStages < pages) {
      issue(call, tile, page + kStages, data, barriers);
    }
  }
#pragma unroll
  for (int t = 0; t < 2; ++t) {
    if (length[t] == 0) continue;
    const std::size_t row = static_cast<std::size_t>(tile.row + 2 * warp + t) * call.heads + head;
    total[t].store(static_cast<__nv_bfloat16*>(call.out) + row * kHeadDim, lane);
  }
}

}  // namespace

cudaError_t softmax_prefill(const SoftmaxPrefill& call, cudaStream_t stream) {
  if (call.count == 0) return cudaSuccess;
  if (call.heads != kGroup * call.kv_heads) return cudaErrorInvalidValue;
  static const cudaError_t ready = cudaFuncSetAttribute(
      prefill_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
  if (ready != cudaSuccess) return ready;
  const dim3 grid(static_cast<unsigned>(call.count), static_cast<unsigned>(call.kv_heads));
  prefill_kernel<<<grid, kThreads, kSharedBytes, stream>>>(call);
  return cudaGetLastError();
}

}  // namespace fulgur::kernels::cuda
