// Lightning attention for consecutive tokens of many sequences, any start and length.
//
// What and why. A sequence is a chain of blocks, so parallelism is heads x value halves x
// sequences: one cluster of two blocks of threads is one head of one segment, each half holding 64
// of the 128 values of the state in registers from the first block to the last. The state is read
// and written once a call; q, k, v are read once from DRAM (q and k twice from L2) and the output
// is written once: 1 KiB a token and head, the least possible.
//
// Eight warps: warp (tile, group) owns value tile `tile` of the half and
//   phase 1  rows 0-15 and 48-63 (group 0) or 16-47 (group 1) of q · S and, in the same pass over
//            the q fragments, its share of the causal tiles of q · kᵀ; an equal share for each
//            warp;
//   phase 2  the same rows of weights · v, the store, and the fold of one half of the keys.
// What the two groups need of each other goes through shared memory: the weights, and bf16(S) as
// ready fragments. Two barriers a block of 64 tokens; the next block's rows are on their way
// meanwhile.
//
// Exactness: lightning.cuh. A segment that starts inside a block takes the block's earlier keys and
// values from the slot; so any cut into calls gives the same bits, and so does decode.
#include <cooperative_groups.h>
#include <cuda_runtime.h>

#include "kernels/cuda/device.hpp"
#include "kernels/cuda/launch.hpp"
#include "kernels/cuda/lightning.cuh"

namespace fulgur::kernels::cuda {
namespace {

constexpr int kHalves = 2;
constexpr int kGroups = 2;
constexpr int kHalfTiles = kTiles / kHalves;       ///< value tiles of one block of threads
constexpr int kKeyTiles = kHeadDim / 8 / kGroups;  ///< tiles of 8 keys a warp folds
constexpr int kThreads = 32 * kHalfTiles * kGroups;
constexpr int kStageBytes = 2 * kOpenBytes + kOpenBytes / kHalves;
constexpr int kWeightStride = kBlock * 2 + 16;  ///< bytes; ldmatrix without bank conflicts
constexpr int kStateOperandBytes = kHalfTiles * 8 * 32 * 16;
constexpr int kZeros = 16;  ///< zeros before w[0]: the weight of a later token
constexpr int kSharedBytes = 2 * kStageBytes + kStateOperandBytes + kBlock * kWeightStride;

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

/// Place of a warp.
struct Place {
  int tile;   ///< value tile of the half
  int group;  ///< 0, 1
  int lane;
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

/// Rows outside the segment: keys and values come from the open block of the slot if earlier, are
/// zeros if later.
__device__ __noinline__ void load_partial_block(const PrefillArgs& args, const Work& work,
                                                int block, std::uint32_t stage) {
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
    const std::uint32_t at = row_chunk_byte(j, c);
    const std::byte* source = token(j) + c * 16;
    copy16(stage + at, source, j >= span.low && j < span.high);
    copy16(stage + kOpenBytes + at, j < span.low ? open + at : source + 256, j < span.high);
  }
  for (int n = thread; n < kBlock * 8; n += kThreads) {
    const int j = n / 8, c = n % 8;
    const std::uint32_t at = c / 2 * kValueTileBytes + value_chunk_byte(j, c % 2);
    const std::byte* value = j < span.low
                                 ? open + kOpenBytes + work.half * kHalfTiles * kValueTileBytes + at
                                 : token(j) + 512 + work.half * 128 + c * 16;
    copy16(stage + 2 * kOpenBytes + at, value, j < span.high);
  }
}

/// Starts the copies of one block's q, k and values (own half) into a stage.
__device__ __forceinline__ void load_block(const PrefillArgs& args, const Work& work, int block,
                                           std::uint32_t stage) {
  const Span span = span_of(work, block);
  if (span.low == 0 && span.high == kBlock) {
    const int thread = static_cast<int>(threadIdx.x);
    const std::int64_t stride = args.heads * std::int64_t{3 * kHeadDim * 2};
    const std::byte* head = reinterpret_cast<const std::byte*>(args.qkv) +
                            (work.row + block * kBlock - work.position) * stride +
                            work.head * (3 * kHeadDim * 2);
    const std::byte* source = head + thread / 16 * stride + thread % 16 * 16;
    const std::uint32_t to = stage + row_chunk_byte(thread / 16, thread % 16);
#pragma unroll
    for (int n = 0; n < kBlock * 16 / kThreads; ++n) {
      copy16(to + n * (kThreads / 16) * 256, source, true);
      copy16(to + kOpenBytes + n * (kThreads / 16) * 256, source + 256, true);
      source += (kThreads / 16) * stride;
    }
    const int j = thread / 8, c = thread % 8;
    const std::byte* value = head + j * stride + 512 + work.half * 128 + c * 16;
    const std::uint32_t value_to =
        stage + 2 * kOpenBytes + c / 2 * kValueTileBytes + value_chunk_byte(j, c % 2);
    copy16(value_to, value, true);
    copy16(value_to + (kThreads / 8) * 32, value + (kThreads / 8) * stride, true);
  } else {
    load_partial_block(args, work, block, stage);
  }
  copy_commit();
}

/// The two row tiles (16 rows) of a group: 0 and 3, or 1 and 2.
__device__ __forceinline__ int row_tile(int group, int n) { return n == 0 ? group : 3 - group; }

/// weights[i][j] = bf16(w[i - j] dots) for one tile of 16 rows x 8 tokens; w[..] is 0 for j > i.
__device__ __forceinline__ void store_weights(const float (&dots)[4], int row, int j,
                                              const float* powers, std::byte* weights) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const float* w = powers + kZeros + row + half * 8 - j;
    *reinterpret_cast<std::uint32_t*>(weights + (row + half * 8) * kWeightStride + j * 2) =
        pack_bf16(dots[2 * half] * w[0], dots[2 * half + 1] * w[-1]);
  }
}

/// Phase 1: out[n] = w[i + 1] (q · S) of the group's row tiles, and this warp's causal tiles of the
/// weights: tokens 8 tile ... for both row tiles, and 32 tokens further for the lower one. powers:
/// w with kZeros zeros before.
__device__ __forceinline__ void dots_of_block(const Place& place, std::uint32_t q,
                                              std::uint32_t keys, const std::byte* state,
                                              const float* powers, std::byte* weights,
                                              float (&out)[2][2][4]) {
  const int lane = place.lane;
  const int upper = row_tile(place.group, 0) * 16;
  const int lower = row_tile(place.group, 1) * 16;
  const bool in_upper = place.tile * 8 < upper + 16;
  const bool far_in_lower = place.tile * 8 + 32 < lower + 16;
  const std::uint32_t q_lane = lane_of_16_rows(q, lane);
  const std::uint32_t key_lane = lane_of_8_rows(keys, lane) + place.tile * 8 * 256;
  const std::byte* state_lane = state + (place.tile * 8 * 32 + lane) * 16;
  float near[2][4] = {}, far[4] = {};
#pragma unroll
  for (int i = 0; i < 4; ++i) out[0][0][i] = out[0][1][i] = out[1][0][i] = out[1][1][i] = 0;
  // Fragments are fetched one step ahead of their use.
  std::uint32_t a0[2][4], a1[2][4], b[2][4], c[2][4];
  uint4 s[2];
  const auto fetch = [&](int k) {
    load_matrices(a0[k % 2], rows_at(q_lane, upper, k * 2));
    load_matrices(a1[k % 2], rows_at(q_lane, lower, k * 2));
    s[k % 2] = *reinterpret_cast<const uint4*>(state_lane + k * 512);
  };
  const auto fetch_keys = [&](int k) {
    load_matrices(b[k / 2 % 2], rows_at(key_lane, 0, k * 2));
    if (far_in_lower) load_matrices(c[k / 2 % 2], rows_at(key_lane, 32, k * 2));
  };
  fetch_keys(0);
  fetch(0);
#pragma unroll
  for (int k = 0; k < 8; ++k) {
    if (k + 1 < 8) fetch(k + 1);
    if (k % 2 == 0 && k + 2 < 8) fetch_keys(k + 2);
    const int at = k % 2;
    const auto& key = b[k / 2 % 2];
    const auto& far_key = c[k / 2 % 2];
    mma(out[0][0], a0[at], s[at].x, s[at].y);
    mma(out[1][0], a1[at], s[at].x, s[at].y);
    mma(out[0][1], a0[at], s[at].z, s[at].w);
    mma(out[1][1], a1[at], s[at].z, s[at].w);
    mma(near[1], a1[at], key[2 * at], key[2 * at + 1]);
    if (in_upper) mma(near[0], a0[at], key[2 * at], key[2 * at + 1]);
    if (far_in_lower) mma(far, a1[at], far_key[2 * at], far_key[2 * at + 1]);
  }
  const int token = place.tile * 8 + lane % 4 * 2;
  store_weights(near[1], lower + lane / 4, token, powers, weights);
  if (in_upper) store_weights(near[0], upper + lane / 4, token, powers, weights);
  if (far_in_lower) store_weights(far, lower + lane / 4, token + 32, powers, weights);
#pragma unroll
  for (int n = 0; n < 2; ++n) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float decay = powers[kZeros + 1 + row_tile(place.group, n) * 16 + lane / 4 + half * 8];
#pragma unroll
      for (int e = 0; e < 2; ++e) out[n][e][2 * half] *= decay, out[n][e][2 * half + 1] *= decay;
    }
  }
}

/// Phase 2, first part: out += weights · values, then to memory for the rows of the span.
__device__ __forceinline__ void finish_rows(const PrefillArgs& args, const Work& work,
                                            const Place& place, int block,
                                            const std::uint32_t (&v)[4][4], std::uint32_t weights,
                                            float (&out)[2][2][4]) {
  const int lane = place.lane;
  const std::uint32_t weight_lane = weights + lane % 16 * kWeightStride + lane / 16 * 16;
#pragma unroll
  for (int t = 0; t < 4; ++t) {
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      const int m = row_tile(place.group, n);
      if (t > m) continue;
      std::uint32_t a[4];
      load_matrices(a, weight_lane + m * 16 * kWeightStride + t * 32);
      mma(out[n][0], a, v[t][0], v[t][2]);
      mma(out[n][1], a, v[t][1], v[t][3]);
    }
  }
  const Span span = span_of(work, block);
  const std::int64_t stride = args.heads * std::int64_t{kHeadDim};
  __nv_bfloat16* base = args.out + (work.row + block * kBlock - work.position) * stride +
                        work.head * kHeadDim + (work.half * kHalfTiles + place.tile) * 16 +
                        lane % 4 * 2;
#pragma unroll
  for (int n = 0; n < 2; ++n) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int i = row_tile(place.group, n) * 16 + lane / 4 + half * 8;
      if (i < span.low || i >= span.high) continue;
      auto* to = reinterpret_cast<std::uint32_t*>(base + i * stride);
      to[0] = pack_bf16(out[n][0][2 * half], out[n][0][2 * half + 1]);
      to[4] = pack_bf16(out[n][1][2 * half], out[n][1][2 * half + 1]);
    }
  }
}

/// Publishes this warp's half of the keys of bf16(S).
__device__ __forceinline__ void publish_state(const float (&s)[kKeyTiles][4], const Place& place,
                                              std::byte* state) {
#pragma unroll
  for (int k = 0; k < kKeyTiles / 2; ++k) {
    std::uint32_t b[4];
    state_operand(s, k, b);
    const int step = place.group * (kKeyTiles / 2) + k;
    *reinterpret_cast<uint4*>(state + ((place.tile * 8 + step) * 32 + place.lane) * 16) =
        make_uint4(b[0], b[1], b[2], b[3]);
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
      *reinterpret_cast<uint4*>(open + kOpenBytes + work.half * kHalfTiles * kValueTileBytes + at) =
          *reinterpret_cast<const uint4*>(stage + 2 * kOpenBytes + at);
    }
  }
}

/// kResident: blocks of threads a multiprocessor is to hold; one may use twice the registers.
template <int kResident>
__global__ __cluster_dims__(kHalves, 1, 1)
    __launch_bounds__(kThreads,
                      kResident) void prefill_kernel(const __grid_constant__ PrefillArgs args) {
  extern __shared__ __align__(1024) std::byte dynamic[];
  __shared__ float powers[kZeros + kBlock + 1];
  std::byte* state = dynamic + 2 * kStageBytes;
  std::byte* weights = state + kStateOperandBytes;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const Place place{warp % kHalfTiles, warp / kHalfTiles, static_cast<int>(threadIdx.x) % 32};
  Work work;
  work.half = static_cast<int>(blockIdx.x) % kHalves;
  work.head = static_cast<int>(blockIdx.x) / kHalves % args.heads;
  const LightningRows& segment = args.segments[blockIdx.x / (kHalves * args.heads)];
  work.row = segment.row;
  work.rows = segment.rows;
  work.position = static_cast<int>(segment.position);
  work.slot = static_cast<std::byte*>(segment.slot) + work.head * kHeadSlotBytes;
  const int tile = work.half * kHalfTiles + place.tile;
  const int first_key = place.group * kKeyTiles;
  const int first = work.position / kBlock;
  const int last = (work.position + work.rows - 1) / kBlock;

  load_block(args, work, first, shared_address(dynamic));
  for (int n = static_cast<int>(threadIdx.x); n < kZeros + kBlock + 1; n += kThreads) {
    powers[n] = n < kZeros ? 0.0F : args.powers[work.head * (kBlock + 1) + n - kZeros];
  }
  float s[kKeyTiles][4] = {};
  if (first > 0) load_state(s, work.slot, tile, first_key, place.lane);
  publish_state(s, place, state);
  bool folded = false;
  for (int block = first; block <= last; ++block) {
    const int parity = (block - first) % 2;
    const std::uint32_t stage = shared_address(dynamic) + parity * kStageBytes;
    copy_wait<0>();
    __syncthreads();
    if (block < last) {
      load_block(args, work, block + 1, shared_address(dynamic) + (1 - parity) * kStageBytes);
    }
    float out[2][2][4];
    dots_of_block(place, stage, stage + kOpenBytes, state, powers, weights, out);
    __syncthreads();
    std::uint32_t v[4][4];
    const std::uint32_t values = stage + 2 * kOpenBytes + place.tile * kValueTileBytes;
#pragma unroll
    for (int t = 0; t < 4; ++t) load_values(v[t], values, t * 16, place.lane);
    finish_rows(args, work, place, block, v, shared_address(weights), out);
    if (span_of(work, block).high == kBlock) {
      decay_values(v, powers + kZeros, place.lane);
      fold_state(s, v, stage + kOpenBytes, first_key, powers[kZeros + kBlock], place.lane);
      publish_state(s, place, state);
      folded = true;
    }
  }
  if (folded) store_state(s, work.slot, tile, first_key, place.lane);
  // The other half may still be reading the slot's old open keys.
  cooperative_groups::this_cluster().sync();
  const Span span = span_of(work, last);
  if (span.high < kBlock) {
    store_open(work, span, dynamic + (last - first) % 2 * kStageBytes);
  }
}

template <int kResident>
cudaError_t launch(const PrefillArgs& args, int blocks, cudaStream_t stream) {
  static const cudaError_t ready = cudaFuncSetAttribute(
      prefill_kernel<kResident>, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes);
  if (ready != cudaSuccess) return ready;
  prefill_kernel<kResident><<<blocks, kThreads, kSharedBytes, stream>>>(args);
  return cudaGetLastError();
}

}  // namespace

cudaError_t lightning_prefill(const void* qkv, const LightningRows* segments, int count, int heads,
                              const float* powers, void* out, cudaStream_t stream) {
  if (count == 0) return cudaSuccess;
  const PrefillArgs args{static_cast<const __nv_bfloat16*>(qkv), segments, heads, powers,
                         static_cast<__nv_bfloat16*>(out)};
  const int blocks = count * heads * kHalves;
  return blocks <= multiprocessors() ? launch<1>(args, blocks, stream)
                                     : launch<2>(args, blocks, stream);
}

}  // namespace fulgur::kernels::cuda
