// Lightning attention for one token a sequence.
//
// What and why. The usual recurrent decode reads and writes a 4 MiB state a layer and token. In
// block form the state of the last block boundary is only read; the token's k and v join the open
// block, and the state is folded once in 64 tokens: 64 KiB + 16 KiB on average a head instead of
// 128 KiB.
//
// Tiling. A block of threads is one head of one sequence; a warp owns 16 values. The state goes
// from memory straight into registers in fragment order (16 loads of 512 contiguous bytes a warp,
// all in flight at once) while the copy engine brings the open block. Few sequences: a head is cut
// into kSplit blocks along the values, which changes no sum.
#include <cuda_runtime.h>

#include "kernels/cuda/launch.hpp"
#include "kernels/cuda/lightning.cuh"

namespace fulgur::kernels::cuda {
namespace {

struct DecodeArgs {
  const __nv_bfloat16* qkv;
  const LightningRows* segments;
  int heads;
  const float* powers;
  __nv_bfloat16* out;
};

/// The fragment of row 0 of q for step k: the other 15 rows of the tile are zero.
__device__ __forceinline__ void one_row(const std::uint32_t* row, int k, int lane,
                                        std::uint32_t (&a)[4]) {
  a[0] = lane < 4 ? row[k * 8 + lane] : 0;
  a[1] = 0;
  a[2] = lane < 4 ? row[k * 8 + 4 + lane] : 0;
  a[3] = 0;
}

/// kSplit blocks a head; kTiles / kSplit warps a block.
template <int kSplit>
__global__ __launch_bounds__(32 * kTiles / kSplit,
                             2 * kSplit) void decode_kernel(const DecodeArgs args) {
  constexpr int kWarps = kTiles / kSplit;
  constexpr int kThreads = 32 * kWarps;
  __shared__ alignas(256) std::byte keys[kOpenBytes];
  __shared__ alignas(128) std::byte values[kWarps * kValueTileBytes];
  __shared__ alignas(16) __nv_bfloat16 query[kHeadDim];
  __shared__ alignas(16) __nv_bfloat16 weights[kBlock];
  __shared__ alignas(8) std::uint64_t arrived;
  const int thread = static_cast<int>(threadIdx.x);
  const int warp = thread / 32;
  const int lane = thread % 32;
  const int split = static_cast<int>(blockIdx.x) % kSplit;
  const int head = static_cast<int>(blockIdx.x) / kSplit % args.heads;
  const LightningRows segment = args.segments[blockIdx.x / (kSplit * args.heads)];
  const int tile = split * kWarps + warp;
  const int i = static_cast<int>(segment.position % kBlock);
  auto* slot = static_cast<std::byte*>(segment.slot) + head * kHeadSlotBytes;
  std::byte* open_keys = slot + kStateBytes;
  std::byte* open_values = open_keys + kOpenBytes + split * kWarps * kValueTileBytes;
  const auto* token = reinterpret_cast<const uint4*>(
      args.qkv + (static_cast<std::size_t>(segment.row) * args.heads + head) * 3 * kHeadDim);
  const float* powers = args.powers + head * (kBlock + 1);
  const std::uint32_t barrier = shared_address(&arrived);

  if (thread == 0) {
    barrier_init(barrier, 1);
    barrier_init_fence();
    barrier_expect(barrier, i * 256 + kWarps * i * 32);
    if (i > 0) {
      const std::uint64_t once = evict_first_policy();
      bulk_copy(shared_address(keys), open_keys, i * 256, barrier, once);
      for (int w = 0; w < kWarps; ++w) {
        bulk_copy(shared_address(values) + w * kValueTileBytes, open_values + w * kValueTileBytes,
                  i * 32, barrier, once);
      }
    }
  }
  float s[kHeadDim / 8][4];
  if (segment.position >= kBlock) {
    load_state(s, slot, tile, 0, lane);
  } else {
#pragma unroll
    for (int n = 0; n < 16; ++n) s[n][0] = s[n][1] = s[n][2] = s[n][3] = 0;
  }
  // The new token joins the open block, here and in the slot; later rows of its 16 are zero values.
  for (int c = thread; c < 16; c += kThreads) {
    reinterpret_cast<uint4*>(query)[c] = token[c];
    const uint4 key = token[16 + c];
    *reinterpret_cast<uint4*>(keys + row_chunk_byte(i, c)) = key;
    if (split == 0) *reinterpret_cast<uint4*>(open_keys + row_chunk_byte(i, c)) = key;
  }
  for (int c = thread; c < 2 * kWarps; c += kThreads) {
    const uint4 value = token[32 + split * 2 * kWarps + c];
    const std::uint32_t at = c / 2 * kValueTileBytes + value_chunk_byte(i, c % 2);
    *reinterpret_cast<uint4*>(values + at) = value;
    *reinterpret_cast<uint4*>(open_values + at) = value;
  }
  const int rest = 15 - i % 16;
  for (int c = thread; c < rest * 2 * kWarps; c += kThreads) {
    const int j = i + 1 + c / (2 * kWarps);
    const int piece = c % (2 * kWarps);
    *reinterpret_cast<uint4*>(values + piece / 2 * kValueTileBytes +
                              value_chunk_byte(j, piece % 2)) = make_uint4(0, 0, 0, 0);
  }
  for (int c = thread; c < kBlock / 8; c += kThreads) {
    reinterpret_cast<uint4*>(weights)[c] = make_uint4(0, 0, 0, 0);
  }
  __syncthreads();
  barrier_wait(barrier, 0);

  // weights[j] = bf16(w[i - j] (q · k_j)); a warp takes every kWarps-th tile of 8 tokens.
  const auto* q_row = reinterpret_cast<const std::uint32_t*>(query);
  const std::uint32_t key_lane = lane_of_8_rows(shared_address(keys), lane);
  std::uint32_t q[4];
  for (int n = warp; n * 8 <= i; n += kWarps) {
    float dots[4] = {};
#pragma unroll
    for (int k = 0; k < 8; k += 2) {
      std::uint32_t b[4];
      load_matrices(b, rows_at(key_lane, n * 8, k * 2));
      one_row(q_row, k, lane, q);
      mma(dots, q, b[0], b[1]);
      one_row(q_row, k + 1, lane, q);
      mma(dots, q, b[2], b[3]);
    }
    if (lane < 4) {
      const int j = n * 8 + lane * 2;
      const float w0 = j <= i ? dots[0] * powers[i - j] : 0.0F;
      const float w1 = j + 1 <= i ? dots[1] * powers[i - j - 1] : 0.0F;
      reinterpret_cast<std::uint32_t*>(weights)[j / 2] = pack_bf16(w0, w1);
    }
  }
  float out[2][4] = {};
#pragma unroll
  for (int k = 0; k < 8; ++k) {
    std::uint32_t b[4];
    state_operand(s, k, b);
    one_row(q_row, k, lane, q);
    mma(out[0], q, b[0], b[1]);
    mma(out[1], q, b[2], b[3]);
  }
  const float decay = powers[i + 1];
  out[0][0] *= decay, out[0][1] *= decay, out[1][0] *= decay, out[1][1] *= decay;
  __syncthreads();
  const std::uint32_t value_tile = shared_address(values) + warp * kValueTileBytes;
  const auto* weight_row = reinterpret_cast<const std::uint32_t*>(weights);
  for (int t = 0; t * 16 <= i; ++t) {
    std::uint32_t v[4];
    load_values(v, value_tile, t * 16, lane);
    one_row(weight_row, t, lane, q);
    mma(out[0], q, v[0], v[2]);
    mma(out[1], q, v[1], v[3]);
  }
  if (lane < 4) {
    auto* to = reinterpret_cast<std::uint32_t*>(
        args.out + (static_cast<std::size_t>(segment.row) * args.heads + head) * kHeadDim +
        tile * 16);
    to[lane] = pack_bf16(out[0][0], out[0][1]);
    to[4 + lane] = pack_bf16(out[1][0], out[1][1]);
  }
  if (i == kBlock - 1) {
    std::uint32_t v[4][4];
#pragma unroll
    for (int t = 0; t < 4; ++t) load_values(v[t], value_tile, t * 16, lane);
    decay_values(v, powers, lane);
    fold_state(s, v, shared_address(keys), 0, powers[kBlock], lane);
    store_state(s, slot, tile, 0, lane);
  }
}

}  // namespace

cudaError_t lightning_decode(const void* qkv, const LightningRows* segments, int count, int heads,
                             const float* powers, void* out, cudaStream_t stream) {
  if (count == 0) return cudaSuccess;
  const DecodeArgs args{static_cast<const __nv_bfloat16*>(qkv), segments, heads, powers,
                        static_cast<__nv_bfloat16*>(out)};
  // Enough blocks for every multiprocessor; beyond that one block a head reads its keys once.
  if (count * heads < 256) {
    decode_kernel<4><<<count * heads * 4, 64, 0, stream>>>(args);
  } else {
    decode_kernel<1><<<count * heads, 256, 0, stream>>>(args);
  }
  return cudaGetLastError();
}

}  // namespace fulgur::kernels::cuda
