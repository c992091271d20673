// Paged grouped-query attention for chunks of prompts: the same sums as softmax_decode.cu, for 16
// consecutive tokens at a time.
//
// What and why. A block owns 16 tokens of one sequence and one KV head. Two warpgroups multiply,
// each 8 tokens x 8 query heads = the 64 rows of a wgmma; a warp holds two tokens. Queries and
// weights are left operands in registers, a page of keys or values is the right operand in shared
// memory as the cache holds it (page_chunk_byte); a third warpgroup's thread fills a ring of pages
// by bulk copies. While the products of a page's weights and values and of the next page's keys
// run, the warpgroup would idle: so it works on the weights of the next page as soon as its scores
// are there, and the two warpgroups take turns in giving work to the tensor cores. Pages in
// position order, each page's products added to the split's output; at the end of each split of 512
// positions its result is merged into the row's total, as merge_kernel of decode does, so that a
// token has the same bits whether it came in a chunk or alone (softmax.cuh). Causal: a token takes
// what is valid of a page for it, and nothing of later pages.
//
// Bound. Per page and warpgroup 512 cycles of the tensor cores, 256 of the exponential unit, about
// 350 issue slots a scheduler; KV from L2, 32 KiB a page and block.
#include <cuda_runtime.h>

#include "kernels/cuda/launch.hpp"
#include "kernels/cuda/softmax.cuh"
#include "kernels/cuda/wgmma.cuh"
#include "kernels/cuda/wgmma_rows.cuh"

namespace fulgur::kernels::cuda {
namespace {

constexpr int kGroupThreads = 128;
constexpr int kGroupTokens = 8;
constexpr int kConsumers = kSoftmaxTileRows / kGroupTokens * kGroupThreads;
constexpr int kThreads = kGroupThreads + kConsumers;
constexpr int kStages = 4;
constexpr int kPageBytes = 2 * kPiece;
constexpr int kHalfBytes = kPiece / 2;          ///< of keys or values: dims 0..63, then 64..127
constexpr int kTotalFloats = 2 + kHeadDim / 4;  ///< a thread's share of a row's total
constexpr int kTotalBytes = 2 * kTotalFloats * kConsumers * 4;
constexpr int kSharedBytes = kStages * kPageBytes + kTotalBytes + 1024;
constexpr int kPagesPerSplit = kSplit / kBlock;
static_assert(kConsumers == 2 * kGroupThreads, "two warpgroups take turns");

struct Ring {
  std::uint32_t data;
  std::uint32_t full;
  std::uint32_t empty;

  __device__ __forceinline__ std::uint32_t keys(int page) const {
    return data + page % kStages * kPageBytes;
  }
  __device__ __forceinline__ void wait_full(int page) const {
    barrier_wait(full + page % kStages * 8, page / kStages & 1);
  }
  __device__ __forceinline__ void wait_empty(int page) const {
    if (page >= kStages) barrier_wait(empty + page % kStages * 8, (page / kStages & 1) ^ 1);
  }
};

/// One thread: copies the tile's pages into the ring.
__device__ void produce(const SoftmaxPrefill& call, const SoftmaxTile& tile, int pages,
                        const Ring& ring) {
  const int* table = call.page_table + static_cast<std::size_t>(tile.table) * call.table_stride;
  for (int page = 0; page < pages; ++page) {
    const auto* from =
        static_cast<const std::byte*>(call.pages) +
        (static_cast<std::size_t>(table[page]) * call.kv_heads + blockIdx.y) * kPageBytes;
    ring.wait_empty(page);
    const std::uint32_t full = ring.full + page % kStages * 8;
    barrier_expect(full, kPageBytes);
    bulk_copy(ring.keys(page), from, kPageBytes, full, evict_normal_policy());
  }
}

/// A token's total over its splits, this thread's share, in shared memory: registers are all taken,
/// and it is touched once in 512 positions. Values of one kind lie together over the threads.
class Total {
 public:
  __device__ Total(float* totals, int token, int thread)
      : mine_(totals + token * kTotalFloats * kConsumers + thread) {
    at(0) = -INFINITY;
#pragma unroll
    for (int i = 1; i < kTotalFloats; ++i) at(i) = 0;
  }

  /// A split's result joins; row t of the two whose output `out` holds.
  __device__ __forceinline__ void merge(const Seen& seen, const float (&out)[64], int t) {
    float max = at(0);
    const Scales scales = merge_scales(max, seen.max);
    at(0) = max;
    at(1) = merged(at(1), seen.sum, scales);
#pragma unroll
    for (int n = 0; n < kHeadDim / 8; ++n) {
      at(2 + 2 * n) = merged(at(2 + 2 * n), out[4 * n + 2 * t], scales);
      at(3 + 2 * n) = merged(at(3 + 2 * n), out[4 * n + 2 * t + 1], scales);
    }
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
  __device__ __forceinline__ float& at(int i) { return mine_[i * kConsumers]; }
  float* mine_;
};

/// A warpgroup's turn to give the tensor cores work; nothing where it is alone.
class Turns {
 public:
  __device__ Turns(int group, bool both) : group_(group), both_(both) {
    if (both && group == 1) give(0);
  }
  __device__ __forceinline__ void take() const {
    if (both_) asm volatile("bar.sync %0, 256;" ::"r"(2 + group_) : "memory");
  }
  __device__ __forceinline__ void pass() const {
    if (both_) give(1 - group_);
  }
  /// The last turn has been taken: nobody waits for the second warpgroup's to end.
  __device__ __forceinline__ void end() const {
    if (both_ && group_ == 0) give(1);
  }

 private:
  __device__ __forceinline__ static void give(int group) {
    asm volatile("bar.arrive %0, 256;" ::"r"(2 + group) : "memory");
  }
  int group_;
  bool both_;
};

/// What a warpgroup does for its 8 tokens; a lane holds the head lane / 4 of two of them.
class Rows {
 public:
  __device__ Rows(const SoftmaxPrefill& call, const SoftmaxTile& tile, float* totals, int thread)
      : lane_(thread % 32), total_{Total(totals, 0, thread), Total(totals, 1, thread)} {
#pragma unroll
    for (int t = 0; t < 2; ++t) {
      const int token = thread / 32 * 2 + t;
      length_[t] = token < tile.rows ? tile.position + token + 1 : 0;
      const auto* query = reinterpret_cast<const std::uint32_t*>(
          static_cast<const __nv_bfloat16*>(call.q) + offset(call, tile, token));
#pragma unroll
      for (int k = 0; k < 8; ++k) {
        query_[k][t] = length_[t] > 0 ? query[k * 8 + lane_ % 4] : 0;
        query_[k][2 + t] = length_[t] > 0 ? query[k * 8 + 4 + lane_ % 4] : 0;
      }
    }
    clear_output();
  }

  /// Starts the products of the queries and a page's keys.
  __device__ __forceinline__ void start_scores(std::uint32_t keys) {
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      WgmmaRows<64, false>::run(dots_, query_[k],
                                operand_descriptor(keys + k / 4 * kHalfBytes + k % 4 * 32), k > 0);
    }
    wgmma_commit();
  }
  /// Starts adding the products of the weights and their page's values.
  __device__ __forceinline__ void start_output(std::uint32_t values) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      WgmmaRows<128, true>::run(out_, weights_[j],
                                transposed_descriptor(values + j * 2048, kHalfBytes), 1);
    }
    wgmma_commit();
  }

  /// Scores that have arrived become weights of page `page`, in the accumulators still.
  __device__ __forceinline__ void weigh(int page) {
    settled(dots_);
    const int first = page * kBlock;
    if (min(length_[0], length_[1]) >= first + kBlock) {
      weigh_rows([](int, int) { return true; });
    } else {
      weigh_rows([&](int t, int at) { return at < length_[t] - first; });
    }
  }
  /// Output and weights made ready for start_output(); the last one has ended.
  __device__ __forceinline__ void prepare_output() {
    settled(out_);
#pragma unroll
    for (int j = 0; j < 4; ++j) {
#pragma unroll
      for (int t = 0; t < 2; ++t) {
        weights_[j][t] = pack_bf16(dots_[8 * j + 2 * t], dots_[8 * j + 2 * t + 1]);
        weights_[j][2 + t] = pack_bf16(dots_[8 * j + 4 + 2 * t], dots_[8 * j + 4 + 2 * t + 1]);
      }
    }
    // Most pages have no larger score than those before: all factors are 1.
    if (__all_sync(0xffffffffU, scale_[0] == 1 && scale_[1] == 1)) return;
#pragma unroll
    for (int i = 0; i < 64; ++i) out_[i] *= scale_[i / 2 % 2];
  }
  /// The output that ends with page `page` joins the totals, and the next split starts; before
  /// weigh() of that split's first page.
  __device__ __forceinline__ void end_split(int page) {
    settled(out_);
#pragma unroll
    for (int t = 0; t < 2; ++t) {
      if (length_[t] > page / kPagesPerSplit * kSplit) total_[t].merge(seen_[t], out_, t);
      seen_[t] = Seen{};
    }
    clear_output();
  }
  __device__ __forceinline__ void store(const SoftmaxPrefill& call, const SoftmaxTile& tile,
                                        int thread) {
#pragma unroll
    for (int t = 0; t < 2; ++t) {
      if (length_[t] == 0) continue;
      total_[t].store(
          static_cast<__nv_bfloat16*>(call.out) + offset(call, tile, thread / 32 * 2 + t), lane_);
    }
  }

 private:
  /// Of this lane's head of a token in q and out.
  __device__ __forceinline__ std::size_t offset(const SoftmaxPrefill& call, const SoftmaxTile& tile,
                                                int token) const {
    const int head = static_cast<int>(blockIdx.y) * kGroup + lane_ / 4;
    return (static_cast<std::size_t>(tile.row + token) * call.heads + head) * kHeadDim;
  }
  __device__ __forceinline__ void clear_output() {
#pragma unroll
    for (int i = 0; i < 64; ++i) out_[i] = 0;
  }

  template <class IsSeen>
  __device__ __forceinline__ void weigh_rows(const IsSeen& is_seen) {
#pragma unroll
    for (int t = 0; t < 2; ++t) {
      float score[8][2];
#pragma unroll
      for (int n = 0; n < 8; ++n) {
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          score[n][c] = score_of(dots_[4 * n + 2 * t + c], is_seen(t, n * 8 + lane_ % 4 * 2 + c));
        }
      }
      if (is_seen(t, 0)) {  // the first position; the same for the whole warp
        scale_[t] = weigh_page(score, seen_[t]);
      } else {
        scale_[t] = 1;
#pragma unroll
        for (int n = 0; n < 8; ++n) score[n][0] = score[n][1] = 0;
      }
#pragma unroll
      for (int n = 0; n < 8; ++n) {
        dots_[4 * n + 2 * t] = score[n][0];
        dots_[4 * n + 2 * t + 1] = score[n][1];
      }
    }
  }

  int lane_;
  int length_[2];  ///< positions a token sees; 0: the tile has no such token
  std::uint32_t query_[8][4];
  float dots_[32];  ///< scores, then weights, of the page after the one whose output runs
  std::uint32_t weights_[4][4];
  float out_[64];  ///< of the split: token t, columns as in wgmma.cuh
  Seen seen_[2];
  float scale_[2];
  Total total_[2];
};

/// A page that nobody sees to its end loses its tail before it is used.
__device__ __forceinline__ void wait_page(const Ring& ring, int page, int end, int group,
                                          int thread) {
  ring.wait_full(page);
  if (end - page * kBlock >= kBlock) return;
  // Both warpgroups write the same zeros; each waits for its own only.
  clear_tail(ring.keys(page) + kPiece, end - page * kBlock, thread % kGroupThreads, kGroupThreads);
  async_proxy_fence();
  asm volatile("bar.sync %0, 128;" ::"r"(4 + group) : "memory");
}

__device__ void consume(const SoftmaxPrefill& call, const SoftmaxTile& tile, int pages,
                        const Ring& ring, float* totals, int thread) {
  const int group = thread / kGroupThreads;
  const int end = tile.position + tile.rows;
  Rows rows(call, tile, totals, thread);
  const Turns turns(group, tile.rows > kGroupTokens);
  wait_page(ring, 0, end, group, thread);
  wgmma_fence();
  rows.start_scores(ring.keys(0));
  wgmma_wait<0>();
  rows.weigh(0);
  rows.prepare_output();
  const int last = pages - 1;
  for (int page = 0; page < last; ++page) {
    wait_page(ring, page + 1, end, group, thread);
    turns.take();
    wgmma_fence();
    rows.start_scores(ring.keys(page + 1));
    rows.start_output(ring.keys(page) + kPiece);
    turns.pass();
    if ((page + 1) % kPagesPerSplit == 0) {
      wgmma_wait<0>();
      rows.end_split(page);
      rows.weigh(page + 1);
    } else {
      wgmma_wait<1>();
      rows.weigh(page + 1);
      wgmma_wait<0>();
    }
    if (thread % 32 == 0) barrier_arrive(ring.empty + page % kStages * 8);
    rows.prepare_output();
  }
  turns.take();
  wgmma_fence();
  rows.start_output(ring.keys(last) + kPiece);
  turns.end();
  wgmma_wait<0>();
  rows.end_split(last);
  rows.store(call, tile, thread);
}

__global__ __launch_bounds__(kThreads,
                             1) void prefill_kernel(const __grid_constant__ SoftmaxPrefill call) {
  extern __shared__ std::byte dynamic[];
  __shared__ alignas(8) std::uint64_t barriers[2 * kStages];
  const SoftmaxTile tile = call.tiles[blockIdx.x];
  auto* totals = reinterpret_cast<float*>(dynamic);
  const Ring ring{(shared_address(dynamic) + kTotalBytes + 1023U) & ~1023U,
                  shared_address(barriers), shared_address(barriers + kStages)};
  const int pages = (tile.position + tile.rows + kBlock - 1) / kBlock;
  const int groups = tile.rows > kGroupTokens ? 2 : 1;
  if (threadIdx.x == 0) {
    for (int s = 0; s < kStages; ++s) {
      barrier_init(ring.full + s * 8, 1);
      barrier_init(ring.empty + s * 8, groups * kGroupThreads / 32);
    }
    barrier_init_fence();
  }
  __syncthreads();
  if (threadIdx.x < kGroupThreads) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 24;");
    if (threadIdx.x == 0) produce(call, tile, pages, ring);
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 240;");
    const int thread = static_cast<int>(threadIdx.x) - kGroupThreads;
    if (thread / kGroupThreads < groups) consume(call, tile, pages, ring, totals, thread);
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
