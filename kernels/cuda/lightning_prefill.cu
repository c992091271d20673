// Lightning attention for consecutive tokens of many sequences, any start and length.
//
// What and why. A sequence is a chain of blocks, so parallelism is heads x value halves x sequences:
// one cluster of two blocks of threads is one head of one segment, each half holding 64 of the 128
// values of the state in registers (lightning.cuh) from the first block to the last. The state is
// read and written once a call; q, k, v are read once from DRAM (q and k twice from L2) and the
// output is written once: 1 KiB a token and head, the least possible.
//
// A block of 64 tokens: q · S and the causal tiles of q · kᵀ from the same q fragments; the weighted
// dots go through shared memory as bf16 (tiles of 8 tokens are dealt so that each warp has an equal
// share of the causal triangle); then weights · v, the store, and the fold. The next block's rows are
// on their way meanwhile.
//
// Exactness: lightning.cuh. A segment that starts inside a block takes the block's earlier keys and
// values from the slot; so any cut into calls gives the same bits, and so does decode.
#include <cooperative_groups.h>
#include <cuda_runtime.h>

#include "kernels/cuda/launch.hpp"
#include "kernels/cuda/lightning.cuh"

namespace fulgur::kernels::cuda {
namespace {

constexpr int kHalves = 2;
constexpr int kWarps = kTiles / kHalves;
constexpr int kThreads = 32 * kWarps;
constexpr int kStageBytes = 2 * kOpenBytes + kOpenBytes / kHalves;
constexpr int kWeightStride = kBlock * 2 + 16;  ///< bytes; ldmatrix without bank conflicts
constexpr int kSharedBytes = 2 * kStageBytes + kBlock * kWeightStride;

struct PrefillArgs {
  const __nv_bfloat16* qkv;
  const LightningRows* segments;
  int heads;
  const float* powers;
  __nv_bfloat16* out;
};

/// What one block of threads works on.
struct Work {
  LightningRows segment;
  int head;
  int half;
  std::byte* slot;  ///< of the head
};

/// Tokens of a block that belong to the segment: [low, high).
struct Span {
  int low;
  int high;
};
__device__ __forceinline__ Span span_of(const LightningRows& segment, std::int64_t block) {
  const std::int64_t start = block * kBlock;
  const std::int64_t end = segment.position + segment.rows;
  return {static_cast<int>(max(segment.position - start, std::int64_t{0})),
          static_cast<int>(min(end - start, std::int64_t{kBlock}))};
}

/// Starts the copies of one block's q, k and values (own half) into a stage; rows outside the
/// segment: keys and values from the open block of the slot if earlier, zeros if later.
__device__ void load_block(const PrefillArgs& args, const Work& work, std::int64_t block,
                           std::uint32_t stage) {
  const Span span = span_of(work.segment, block);
  const auto first = static_cast<std::int64_t>(work.segment.row) + block * kBlock -
                     work.segment.position;
  const auto* rows = reinterpret_cast<const std::byte*>(args.qkv);
  const auto token = [&](int j) {
    const std::int64_t row = j >= span.low && j < span.high ? first + j : work.segment.row;
    return rows + (row * args.heads + work.head) * std::int64_t{3 * kHeadDim * 2};
  };
  const std::byte* open = work.slot + kStateBytes;
  const int thread = static_cast<int>(threadIdx.x);
#pragma unroll 4
  for (int n = thread; n < kBlock * 16; n += kThreads) {
    const int j = n / 16, c = n % 16;
    const std::uint32_t at = row_chunk_byte(j, c);
    const bool inside = j >= span.low && j < span.high;
    const std::byte* source = token(j) + c * 16;
    copy16(stage + at, source, inside);
    const std::byte* key = j < span.low ? open + at : source + 256;
    copy16(stage + kOpenBytes + at, key, j < span.high);
  }
#pragma unroll 4
  for (int n = thread; n < kBlock * 8; n += kThreads) {
    const int j = n / 8, c = n % 8;
    const std::uint32_t at = c / 2 * kValueTileBytes + value_chunk_byte(j, c % 2);
    const std::byte* value = j < span.low
                                 ? open + kOpenBytes + work.half * kWarps * kValueTileBytes + at
                                 : token(j) + 512 + work.half * 128 + c * 16;
    copy16(stage + 2 * kOpenBytes + at, value, j < span.high);
  }
  copy_commit();
}

/// out[m][..] = w[i + 1] (q · S) of all rows, and this warp's tiles of the weighted causal dots.
__device__ __forceinline__ void dots_of_block(const State& s, std::uint32_t q, std::uint32_t keys,
                                              const float* powers, std::byte* weights, int warp,
                                              int lane, float (&out)[4][2][4]) {
  const int tiles[2] = {warp, 7 - warp};
  std::uint32_t key[2][8][2];
#pragma unroll
  for (int n = 0; n < 2; ++n) {
#pragma unroll
    for (int k = 0; k < 8; k += 2) {
      std::uint32_t b[4];
      load_matrices(b, rows8_address(keys, tiles[n] * 8, k * 2, lane));
      key[n][k][0] = b[0], key[n][k][1] = b[1], key[n][k + 1][0] = b[2], key[n][k + 1][1] = b[3];
    }
  }
  std::uint32_t state[8][4];
#pragma unroll
  for (int k = 0; k < 8; ++k) state_operand(s, k, state[k]);
#pragma unroll
  for (int m = 0; m < 4; ++m) {
    float dots[2][4] = {};
#pragma unroll
    for (int i = 0; i < 4; ++i) out[m][0][i] = out[m][1][i] = 0;
    const bool first = tiles[0] <= 2 * m + 1;
    const bool second = tiles[1] <= 2 * m + 1;
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      std::uint32_t a[4];
      load_matrices(a, rows16_address(q, m * 16, k * 2, lane));
      mma(out[m][0], a, state[k][0], state[k][1]);
      mma(out[m][1], a, state[k][2], state[k][3]);
      if (first) mma(dots[0], a, key[0][k][0], key[0][k][1]);
      if (second) mma(dots[1], a, key[1][k][0], key[1][k][1]);
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = m * 16 + lane / 4 + half * 8;
      const float decay = powers[row + 1];
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        out[m][n][2 * half] *= decay;
        out[m][n][2 * half + 1] *= decay;
        if (tiles[n] > 2 * m + 1) continue;
        const int j = tiles[n] * 8 + lane % 4 * 2;
        const float w0 = j <= row ? dots[n][2 * half] * powers[row - j] : 0.0F;
        const float w1 = j + 1 <= row ? dots[n][2 * half + 1] * powers[row - j - 1] : 0.0F;
        *reinterpret_cast<std::uint32_t*>(weights + row * kWeightStride + j * 2) = pack_bf16(w0, w1);
      }
    }
  }
}

/// out += weights · values, then to memory for the rows of the span.
__device__ __forceinline__ void finish_block(const PrefillArgs& args, const Work& work,
                                             std::int64_t block, std::uint32_t values,
                                             std::uint32_t weights, int warp, int lane,
                                             float (&out)[4][2][4]) {
  const Span span = span_of(work.segment, block);
  std::uint32_t v[4][4];
#pragma unroll
  for (int t = 0; t < 4; ++t) load_values(v[t], values, t * 16, lane);
#pragma unroll
  for (int m = 0; m < 4; ++m) {
#pragma unroll
    for (int t = 0; t <= m; ++t) {
      std::uint32_t a[4];
      load_matrices(a, weights + (m * 16 + lane % 16) * kWeightStride + (t * 2 + lane / 16) * 16);
      mma(out[m][0], a, v[t][0], v[t][2]);
      mma(out[m][1], a, v[t][1], v[t][3]);
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int i = m * 16 + lane / 4 + half * 8;
      if (i < span.low || i >= span.high) continue;
      const std::int64_t row = work.segment.row + block * kBlock + i - work.segment.position;
      auto* to = reinterpret_cast<std::uint32_t*>(
          args.out + (row * args.heads + work.head) * kHeadDim + (work.half * kWarps + warp) * 16);
      to[lane % 4] = pack_bf16(out[m][0][2 * half], out[m][0][2 * half + 1]);
      to[4 + lane % 4] = pack_bf16(out[m][1][2 * half], out[m][1][2 * half + 1]);
    }
  }
}

/// Keys and values of the last, unfinished block go to the slot.
__device__ void store_open(const Work& work, const Span& span, const std::byte* stage) {
  std::byte* open = work.slot + kStateBytes;
  for (int n = static_cast<int>(threadIdx.x); n < (span.high - span.low) * 24; n += kThreads) {
    const int j = span.low + n / 24, c = n % 24;
    if (c < 16) {
      const std::uint32_t at = row_chunk_byte(j, c);
      if (work.half == 0) {
        *reinterpret_cast<uint4*>(open + at) =
            *reinterpret_cast<const uint4*>(stage + kOpenBytes + at);
      }
    } else {
      const std::uint32_t at = (c - 16) / 2 * kValueTileBytes + value_chunk_byte(j, c % 2);
      *reinterpret_cast<uint4*>(open + kOpenBytes + work.half * kWarps * kValueTileBytes + at) =
          *reinterpret_cast<const uint4*>(stage + 2 * kOpenBytes + at);
    }
  }
}

__global__ __cluster_dims__(kHalves, 1, 1) __launch_bounds__(kThreads, 2)
    void prefill_kernel(const PrefillArgs args) {
  extern __shared__ __align__(1024) std::byte dynamic[];
  __shared__ float powers[kBlock + 1];
  std::byte* weights = dynamic + 2 * kStageBytes;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  Work work;
  work.half = static_cast<int>(blockIdx.x) % kHalves;
  work.head = static_cast<int>(blockIdx.x) / kHalves % args.heads;
  work.segment = args.segments[blockIdx.x / (kHalves * args.heads)];
  work.slot = static_cast<std::byte*>(work.segment.slot) + work.head * kHeadSlotBytes;
  const int tile = work.half * kWarps + warp;
  const std::int64_t first = work.segment.position / kBlock;
  const std::int64_t last = (work.segment.position + work.segment.rows - 1) / kBlock;

  load_block(args, work, first, shared_address(dynamic));
  for (int n = static_cast<int>(threadIdx.x); n <= kBlock; n += kThreads) {
    powers[n] = args.powers[work.head * (kBlock + 1) + n];
  }
  State s;
  if (first > 0) {
    load_state(s, work.slot, tile, lane);
  } else {
#pragma unroll
    for (int n = 0; n < 16; ++n) s[n][0] = s[n][1] = s[n][2] = s[n][3] = 0;
  }
  bool folded = false;
  for (std::int64_t block = first; block <= last; ++block) {
    const int parity = static_cast<int>(block - first) % 2;
    const std::uint32_t stage = shared_address(dynamic) + parity * kStageBytes;
    if (block < last) {
      load_block(args, work, block + 1, shared_address(dynamic) + (1 - parity) * kStageBytes);
      copy_wait<1>();
    } else {
      copy_wait<0>();
    }
    __syncthreads();
    const std::uint32_t keys = stage + kOpenBytes;
    const std::uint32_t values = stage + 2 * kOpenBytes + warp * kValueTileBytes;
    float out[4][2][4];
    dots_of_block(s, stage, keys, powers, weights, warp, lane, out);
    __syncthreads();
    finish_block(args, work, block, values, shared_address(weights), warp, lane, out);
    if (span_of(work.segment, block).high == kBlock) {
      fold_state(s, keys, values, powers, lane);
      folded = true;
    }
    __syncthreads();
  }
  if (folded) store_state(s, work.slot, tile, lane);
  // The other half may still be reading the slot's old open keys.
  cooperative_groups::this_cluster().sync();
  const Span span = span_of(work.segment, last);
  if (span.high < kBlock) {
    store_open(work, span, dynamic + static_cast<int>(last - first) % 2 * kStageBytes);
  }
}

}  // namespace

cudaError_t lightning_prefill(const void* qkv, const LightningRows* segments, int count, int heads,
                              const float* powers, void* out, cudaStream_t stream) {
  if (count == 0) return cudaSuccess;
  static const cudaError_t ready = cudaFuncSetAttribute(
      prefill_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
  if (ready != cudaSuccess) return ready;
  const PrefillArgs args{static_cast<const __nv_bfloat16*>(qkv), segments, heads, powers,
                         static_cast<__nv_bfloat16*>(out)};
  prefill_kernel<<<count * heads * kHalves, kThreads, kSharedBytes, stream>>>(args);
  return cudaGetLastError();
}

}  // namespace fulgur::kernels::cuda
