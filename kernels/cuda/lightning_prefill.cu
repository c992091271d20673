// Lightning attention for consecutive tokens of many sequences, any start and length.
//
// What and why. A sequence is a chain of blocks, so parallelism is heads x value halves x
// sequences: one cluster of two blocks of threads is one head of one segment, each half holding 64
// of the 128 values of the state in registers from the first block to the last. The state is read
// and written once a call; q, k, v are read once from DRAM (q and k twice from L2) and the output
// is written once: 1 KiB a token and head, the least possible.
//
// A block of 64 tokens is four products of wgmma, by two warpgroups that meet once a block:
//   rows   q kᵀ        [64 tokens, 64 tokens]   q from registers, keys as they came
//          q bf16(S)   [64 tokens, 64 values]   the state from shared memory
//          + weights v [64 tokens, 64 values]   weights from the first product's accumulators
//   state  v'ᵀ k       [64 values, 128 keys]    decayed values from registers; joins S, which is
//                                               published as bf16 for the next block's rows
// 896 cycles of the tensor cores in all, beside 48 KiB of traffic. Keys serve as right operand both
// ways round; the accumulators of the last product are the state's fragments in the slot. The rows
// of the next two blocks are on their way meanwhile.
//
// Exactness: lightning.cuh; wgmma gives the bits of mma. A segment that starts inside a block takes
// the block's earlier keys and values from the slot; so any cut into calls gives the same bits, and
// so does decode.
#include <cooperative_groups.h>
#include <cuda_runtime.h>

#include "kernels/cuda/device.hpp"
#include "kernels/cuda/launch.hpp"
#include "kernels/cuda/lightning.cuh"
#include "kernels/cuda/wgmma.cuh"
#include "kernels/cuda/wgmma_rows.cuh"

namespace fulgur::kernels::cuda {
namespace {

constexpr int kHalves = 2;
constexpr int kHalfTiles = kTiles / kHalves;  ///< value tiles of one block of threads
constexpr int kThreads = 256;
constexpr int kStages = 3;
constexpr int kQueryBytes = kOpenBytes;       ///< rows of 256 bytes, row_chunk_byte()
constexpr int kKeyBytes = kOpenBytes;         ///< page_chunk_byte()
constexpr int kValueBytes = kOpenBytes / 2;   ///< page_chunk_byte() of 8 chunks: one of its halves
constexpr int kHalfRowsBytes = kBlock * 128;  ///< of keys or state: dims 0..63, then 64..127
constexpr int kStageBytes = kQueryBytes + kKeyBytes + kValueBytes;
constexpr int kStateOperandBytes = kBlock * kHeadDim * 2;  ///< [64 values, 128 keys] bf16
constexpr int kSharedBytes = kStages * kStageBytes + 2 * kStateOperandBytes;
static_assert(kHalfTiles * 32 == 128, "a value tile a warp of the state's warpgroup");

struct PrefillArgs {
  const __nv_bfloat16* qkv;
  const LightningRows* segments;
  int heads;
  const float* powers;
  __nv_bfloat16* out;
};

/// What one block of threads works on.
struct Work {
  int row;  ///< of the segment in qkv and out
  int rows;
  int position;
  int head;
  int half;
  std::byte* slot;  ///< of the head
};

/// Tokens of a block that belong to the segment: [low, high).
struct Span {
  int low;
  int high;
};
__device__ __forceinline__ Span span_of(const Work& work, int block) {
  const int start = block * kBlock;
  return {max(work.position - start, 0), min(work.position + work.rows - start, kBlock)};
}

/// Rows of a block in shared memory.
struct Stage {
  std::uint32_t query;

  __device__ __forceinline__ std::uint32_t keys() const { return query + kQueryBytes; }
  __device__ __forceinline__ std::uint32_t values() const { return keys() + kKeyBytes; }
};

/// Place of a chunk of this half's values in the slot's open block.
__device__ __forceinline__ std::uint32_t open_value_byte(const Work& work, int j, int c) {
  return kOpenBytes + (work.half * kHalfTiles + c / 2) * kValueTileBytes +
         value_chunk_byte(j, c % 2);
}

/// Rows outside the segment: keys and values come from the open block of the slot if earlier, are
/// zeros if later.
__device__ __noinline__ void load_partial_block(const PrefillArgs& args, const Work& work,
                                                int block, Stage stage) {
  const Span span = span_of(work, block);
  const int first = work.row + block * kBlock - work.position;
  const auto* rows = reinterpret_cast<const std::byte*>(args.qkv);
  const auto token = [&](int j) {
    const std::int64_t row = j >= span.low && j < span.high ? first + j : work.row;
    return rows + (row * args.heads + work.head) * std::int64_t{3 * kHeadDim * 2};
  };
  const std::byte* open = work.slot + kStateBytes;
  const int thread = static_cast<int>(threadIdx.x);
  for (int n = thread; n < kBlock * 16; n += kThreads) {
    const int j = n / 16, c = n % 16;
    const std::byte* source = token(j) + c * 16;
    copy16(stage.query + row_chunk_byte(j, c), source, j >= span.low && j < span.high);
    copy16(stage.keys() + page_chunk_byte(j, c),
           j < span.low ? open + row_chunk_byte(j, c) : source + 256, j < span.high);
  }
  for (int n = thread; n < kBlock * 8; n += kThreads) {
    const int j = n / 8, c = n % 8;
    const std::byte* value = j < span.low ? open + open_value_byte(work, j, c)
                                          : token(j) + 512 + work.half * 128 + c * 16;
    copy16(stage.values() + page_chunk_byte(j, c), value, j < span.high);
  }
}

/// Starts the copies of one block's q, k and values (own half) into a stage.
__device__ __forceinline__ void load_block(const PrefillArgs& args, const Work& work, int block,
                                           Stage stage) {
  const Span span = span_of(work, block);
  if (span.low != 0 || span.high != kBlock) return load_partial_block(args, work, block, stage);
  const int thread = static_cast<int>(threadIdx.x);
  const std::int64_t stride = args.heads * std::int64_t{3 * kHeadDim * 2};
  const std::byte* head = reinterpret_cast<const std::byte*>(args.qkv) +
                          (work.row + block * kBlock - work.position) * stride +
                          work.head * (3 * kHeadDim * 2);
  constexpr int kStep = kThreads / 16;  // rows at once; a multiple of 8 keeps the swizzle
  const std::byte* source = head + thread / 16 * stride + thread % 16 * 16;
  const std::uint32_t query = stage.query + row_chunk_byte(thread / 16, thread % 16);
  const std::uint32_t key = stage.keys() + page_chunk_byte(thread / 16, thread % 16);
#pragma unroll
  for (int n = 0; n < kBlock / kStep; ++n) {
    copy16(query + n * kStep * 256, source, true);
    copy16(key + n * kStep * 128, source + 256, true);
    source += kStep * stride;
  }
  constexpr int kValueStep = kThreads / 8;
  const std::byte* value = head + thread / 8 * stride + 512 + work.half * 128 + thread % 8 * 16;
  const std::uint32_t value_to = stage.values() + page_chunk_byte(thread / 8, thread % 8);
#pragma unroll
  for (int n = 0; n < kBlock / kValueStep; ++n) {
    copy16(value_to + n * kValueStep * 128, value, true);
    value += kValueStep * stride;
  }
}

/// The factors of the weights in this lane's accumulators: w[i - j], of rows i = lane / 4 and eight
/// below, columns j = 8 n + 2 (lane % 4) + {0, 1}. They depend on i - j, so the lower row's of tile
/// n + 1 are the upper row's of tile n.
struct Factors {
  float w[9][2];

  /// powers: w[0..64] behind kBlock zeros.
  __device__ Factors(const float* powers, int warp, int lane) {
    const int i = warp * 16 + lane / 4;
#pragma unroll
    for (int n = 0; n < 9; ++n) {
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const int distance = i + 8 - (n * 8 + lane % 4 * 2 + c);
        w[n][c] = powers[kBlock + max(distance, -kBlock)];
      }
    }
  }
  __device__ __forceinline__ float at(int n, int lower, int c) const { return w[n + 1 - lower][c]; }
};

/// weights = bf16(w[i - j] dots) as left operands of four steps of 16 tokens; 0 for j > i.
__device__ __forceinline__ void weigh(const float (&dots)[32], const Factors& factors, int warp,
                                      int lane, std::uint32_t (&weights)[4][4]) {
  const int i = warp * 16 + lane / 4;
#pragma unroll
  for (int n = 0; n < 8; ++n) {
#pragma unroll
    for (int lower = 0; lower < 2; ++lower) {
      float w[2];
#pragma unroll
      for (int c = 0; c < 2; ++c) {
        const bool seen = n * 8 + lane % 4 * 2 + c <= i + lower * 8;
        w[c] = seen ? dots[4 * n + 2 * lower + c] * factors.at(n, lower, c) : 0.0F;
      }
      weights[n / 2][n % 2 * 2 + lower] = pack_bf16(w[0], w[1]);
    }
  }
}

/// Values of 16 tokens from `j` of the warp's 16 values as a left operand [value, token].
__device__ __forceinline__ void load_value_rows(std::uint32_t (&r)[4], std::uint32_t values, int j,
                                                int warp, int lane) {
  const int row = j + lane % 8 + lane / 16 * 8;
  load_matrices_transposed(r, values + page_chunk_byte(row, warp * 2 + lane / 8 % 2));
}

/// Accumulators of two tiles of 8 columns as four 8 x 8 matrices of bf16: store_matrices() with
/// rows lane % 8 + lane / 8 % 2 * 8 and tile lane / 16.
template <int kCount>
__device__ __forceinline__ void narrow_tiles(const float (&d)[kCount], int n,
                                             std::uint32_t (&r)[4]) {
  r[0] = pack_bf16(d[4 * n], d[4 * n + 1]);
  r[1] = pack_bf16(d[4 * n + 2], d[4 * n + 3]);
  r[2] = pack_bf16(d[4 * n + 4], d[4 * n + 5]);
  r[3] = pack_bf16(d[4 * n + 6], d[4 * n + 7]);
}

/// Publishes this warp's 16 values of bf16(S) as right operand [64 values][128 keys].
__device__ __forceinline__ void publish_state(const float (&s)[kHeadDim / 8][4], int warp, int lane,
                                              std::uint32_t operand) {
  const int value = warp * 16 + lane % 8 + lane / 8 % 2 * 8;
#pragma unroll
  for (int n = 0; n < kHeadDim / 8; n += 2) {
    std::uint32_t r[4];
    r[0] = pack_bf16(s[n][0], s[n][1]);
    r[1] = pack_bf16(s[n][2], s[n][3]);
    r[2] = pack_bf16(s[n + 1][0], s[n + 1][1]);
    r[3] = pack_bf16(s[n + 1][2], s[n + 1][3]);
    store_matrices(operand + page_chunk_byte(value, n + lane / 16), r);
  }
}

/// The warp's 16 rows of the output to memory, by way of its rows of q, which nobody needs any
/// more.
__device__ __forceinline__ void store_rows(const PrefillArgs& args, const Work& work, int block,
                                           const float (&out)[32], int warp, int lane,
                                           std::uint32_t query) {
  const int from = warp * 16 + lane % 8 + lane / 8 % 2 * 8;
#pragma unroll
  for (int n = 0; n < 8; n += 2) {
    std::uint32_t r[4];
    narrow_tiles(out, n, r);
    store_matrices(query + row_chunk_byte(from, n + lane / 16), r);
  }
  __syncwarp();
  const Span span = span_of(work, block);
  const std::int64_t stride = args.heads * std::int64_t{kHeadDim};
  __nv_bfloat16* base = args.out + (work.row + block * kBlock - work.position) * stride +
                        work.head * kHeadDim + work.half * 64 + lane % 8 * 8;
#pragma unroll
  for (int n = 0; n < 4; ++n) {
    const int i = warp * 16 + n * 4 + lane / 8;
    if (i < span.low || i >= span.high) continue;
    *reinterpret_cast<uint4*>(base + i * stride) =
        load_shared16(query + row_chunk_byte(i, lane % 8));
  }
}

/// Keys and values of the last, unfinished block go to the slot.
__device__ void store_open(const Work& work, const Span& span, Stage stage) {
  std::byte* open = work.slot + kStateBytes;
  for (int n = static_cast<int>(threadIdx.x); n < (span.high - span.low) * 24; n += kThreads) {
    const int j = span.low + n / 24, c = n % 24;
    if (c >= 16) {
      *reinterpret_cast<uint4*>(open + open_value_byte(work, j, c - 16)) =
          load_shared16(stage.values() + page_chunk_byte(j, c - 16));
    } else if (work.half == 0) {
      *reinterpret_cast<uint4*>(open + row_chunk_byte(j, c)) =
          load_shared16(stage.keys() + page_chunk_byte(j, c));
    }
  }
}

/// What both warpgroups walk: the blocks of a segment, through the ring of stages.
class Walk {
 public:
  __device__ Walk(const PrefillArgs& args, const Work& work, std::uint32_t shared)
      : args_(args),
        work_(work),
        shared_(shared),
        first_(work.position / kBlock),
        blocks_((work.position + work.rows - 1) / kBlock - first_ + 1) {
#pragma unroll
    for (int n = 0; n < kStages - 1; ++n) load(n);
  }

  __device__ __forceinline__ int blocks() const { return blocks_; }
  __device__ __forceinline__ int block(int n) const { return first_ + n; }
  __device__ __forceinline__ Stage stage(int n) const {
    return {shared_ + static_cast<std::uint32_t>(n % kStages) * kStageBytes};
  }
  /// bf16(S) at the start of block n, [64 values][128 keys] by page_chunk_byte().
  __device__ __forceinline__ std::uint32_t state(int n) const {
    return shared_ + kStages * kStageBytes + static_cast<std::uint32_t>(n % 2) * kStateOperandBytes;
  }
  /// Rows and state of block n have come, and everybody is done with the block before.
  __device__ __forceinline__ void enter() const {
    copy_wait<kStages - 2>();
    async_proxy_fence();
    asm volatile("bar.sync 1, 256;" ::: "memory");
  }
  /// Starts the copies of the last block that fits into the ring beside block n.
  __device__ __forceinline__ void load_ahead(int n) const { load(n + kStages - 1); }

 private:
  __device__ __forceinline__ void load(int n) const {
    if (n < blocks_) load_block(args_, work_, block(n), stage(n));
    copy_commit();
  }

  const PrefillArgs& args_;
  const Work& work_;
  std::uint32_t shared_;
  int first_;
  int blocks_;
};

/// The warpgroup of the outputs: 16 rows a warp.
__device__ void work_rows(const PrefillArgs& args, const Work& work, const Walk& walk,
                          const float* powers, int warp, int lane) {
  const Factors factors(powers, warp, lane);
  const float* row_powers = powers + kBlock + 1 + warp * 16 + lane / 4;
  const float decay[2] = {row_powers[0], row_powers[8]};
  for (int n = 0; n < walk.blocks(); ++n) {
    const Stage stage = walk.stage(n);
    walk.enter();
    std::uint32_t q[8][4];
    const std::uint32_t q_lane = lane_of_16_rows(stage.query, lane);
#pragma unroll
    for (int k = 0; k < 8; ++k) load_matrices(q[k], rows_at(q_lane, warp * 16, k * 2));
    float dots[32], out[32];
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      const std::uint32_t at = k / 4 * kHalfRowsBytes + k % 4 * 32;
      WgmmaRows<64, false>::run(dots, q[k], operand_descriptor(stage.keys() + at), k > 0);
    }
    wgmma_commit();
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      const std::uint32_t at = k / 4 * kHalfRowsBytes + k % 4 * 32;
      WgmmaRows<64, false>::run(out, q[k], operand_descriptor(walk.state(n) + at), k > 0);
    }
    wgmma_commit();
    walk.load_ahead(n);
    wgmma_wait<1>();
    settled(dots);
    std::uint32_t weights[4][4];
    weigh(dots, factors, warp, lane, weights);
    wgmma_wait<0>();
    settled(out);
#pragma unroll
    for (int i = 0; i < 32; ++i) out[i] *= decay[i / 2 % 2];
    wgmma_fence();
#pragma unroll
    for (int t = 0; t < 4; ++t) {
      WgmmaRows<64, true>::run(out, weights[t], transposed_descriptor(stage.values() + t * 2048, 0),
                               1);
    }
    wgmma_commit();
    wgmma_wait<0>();
    settled(out);
    store_rows(args, work, walk.block(n), out, warp, lane, stage.query);
  }
}

/// The warpgroup of the state: a value tile a warp.
__device__ void work_state(const Work& work, const Walk& walk, const float* powers, int warp,
                           int lane) {
  const int tile = work.half * kHalfTiles + warp;
  float s[kHeadDim / 8][4] = {};
  if (walk.block(0) > 0) load_state(s, work.slot, tile, 0, lane);
  publish_state(s, warp, lane, walk.state(0));
  const float decay = powers[2 * kBlock];
  bool folded = false;
  for (int n = 0; n < walk.blocks(); ++n) {
    const Stage stage = walk.stage(n);
    walk.enter();
    std::uint32_t v[4][4];
#pragma unroll
    for (int t = 0; t < 4; ++t) load_value_rows(v[t], stage.values(), t * 16, warp, lane);
    decay_values(v, powers + kBlock, lane);
    float sum[64];
    wgmma_fence();
#pragma unroll
    for (int t = 0; t < 4; ++t) {
      WgmmaRows<128, true>::run(
          sum, v[t], transposed_descriptor(stage.keys() + t * 2048, kHalfRowsBytes), t > 0);
    }
    wgmma_commit();
    walk.load_ahead(n);
    wgmma_wait<0>();
    settled(sum);
    if (span_of(work, walk.block(n)).high < kBlock) continue;
#pragma unroll
    for (int i = 0; i < 64; ++i) s[i / 4][i % 4] = fmaf(decay, s[i / 4][i % 4], sum[i]);
    publish_state(s, warp, lane, walk.state(n + 1));
    folded = true;
  }
  if (folded) store_state(s, work.slot, tile, 0, lane);
}

__global__ __cluster_dims__(kHalves, 1, 1)
    __launch_bounds__(kThreads, 1) void prefill_kernel(const __grid_constant__ PrefillArgs args) {
  extern __shared__ __align__(1024) std::byte dynamic[];
  __shared__ float powers[2 * kBlock + 1];
  Work work;
  work.half = static_cast<int>(blockIdx.x) % kHalves;
  work.head = static_cast<int>(blockIdx.x) / kHalves % args.heads;
  const LightningRows& segment = args.segments[blockIdx.x / (kHalves * args.heads)];
  work.row = segment.row;
  work.rows = segment.rows;
  work.position = static_cast<int>(segment.position);
  work.slot = static_cast<std::byte*>(segment.slot) + work.head * kHeadSlotBytes;
  const Walk walk(args, work, shared_address(dynamic));
  for (int n = static_cast<int>(threadIdx.x); n < 2 * kBlock + 1; n += kThreads) {
    powers[n] = n < kBlock ? 0.0F : args.powers[work.head * (kBlock + 1) + n - kBlock];
  }
  __syncthreads();
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  if (warp < 4) {
    work_rows(args, work, walk, powers, warp, lane);
  } else {
    work_state(work, walk, powers, warp - 4, lane);
  }
  // The other half may still be reading the slot's old open keys.
  cooperative_groups::this_cluster().sync();
  const Span span = span_of(work, walk.block(walk.blocks() - 1));
  if (span.high < kBlock) store_open(work, span, walk.stage(walk.blocks() - 1));
}

}  // namespace

cudaError_t lightning_prefill(const void* qkv, const LightningRows* segments, int count, int heads,
                              const float* powers, void* out, cudaStream_t stream) {
  if (count == 0) return cudaSuccess;
  const PrefillArgs args{static_cast<const __nv_bfloat16*>(qkv), segments, heads, powers,
                         static_cast<__nv_bfloat16*>(out)};
  static const cudaError_t ready = cudaFuncSetAttribute(
      prefill_kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
  if (ready != cudaSuccess) return ready;
  prefill_kernel<<<count * heads * kHalves, kThreads, kSharedBytes, stream>>>(args);
  return cudaGetLastError();
}

}  // namespace fulgur::kernels::cuda
