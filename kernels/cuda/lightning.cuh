// Lightning attention in block form: the pieces that decode and prefill share, so that a token has
// the same bits whichever computes it.
//
// Definition (per head, block of 64 tokens at absolute positions, i the token's place in its block,
// S the float32 state at the block's start, w[n] = exp(-rate n)):
//   o_i  = w[i + 1] (q_i · bf16(S)) + sum over j <= i of bf16(w[i - j] (q_i · k_j)) v_j
//   S'   = w[64] S + sum over j of k_j bf16(w[63 - j] v_j)
// Every sum is a chain of mma m16n8k16 with k ascending: d for dots, j for values. The state lives as
// accumulators of the transposed product [e, d]; those are at the same time the B fragments of q · S,
// so a state never passes through shared memory.
//
// A warp owns 16 values e ("tile") and all 128 keys d: 64 float32 a lane.
#pragma once

#include "kernels/cuda/layout.hpp"
#include "kernels/cuda/ptx.cuh"

namespace fulgur::kernels::cuda {

constexpr int kTiles = kHeadDim / 16;  ///< value tiles of a head
using State = float[16][4];            ///< [d / 8][fragment of mma]: one value tile

/// Reads the state of value tile `tile` from a head's slot.
__device__ __forceinline__ void load_state(State& s, const std::byte* slot, int tile, int lane) {
#pragma unroll
  for (int n = 0; n < 16; ++n) {
    const float4 v = load_streaming(slot + ((tile * 16 + n) * 32 + lane) * 16);
    s[n][0] = v.x, s[n][1] = v.y, s[n][2] = v.z, s[n][3] = v.w;
  }
}
__device__ __forceinline__ void store_state(const State& s, std::byte* slot, int tile, int lane) {
#pragma unroll
  for (int n = 0; n < 16; ++n) {
    *reinterpret_cast<float4*>(slot + ((tile * 16 + n) * 32 + lane) * 16) =
        make_float4(s[n][0], s[n][1], s[n][2], s[n][3]);
  }
}

/// B fragments of bf16(S) for step k (16 keys): values 0-7 in b[0..1], 8-15 in b[2..3].
__device__ __forceinline__ void state_operand(const State& s, int k, std::uint32_t (&b)[4]) {
  b[0] = pack_bf16(s[2 * k][0], s[2 * k][1]);
  b[1] = pack_bf16(s[2 * k + 1][0], s[2 * k + 1][1]);
  b[2] = pack_bf16(s[2 * k][2], s[2 * k][3]);
  b[3] = pack_bf16(s[2 * k + 1][2], s[2 * k + 1][3]);
}

/// Shared address of this lane's row for a ldmatrix.x4 of swizzled 256-byte rows: 16 rows from
/// `row`, chunks `chunk` and `chunk + 1`; matrices (rows 0-7, c), (8-15, c), (0-7, c+1), (8-15, c+1).
__device__ __forceinline__ std::uint32_t rows16_address(std::uint32_t base, int row, int chunk,
                                                        int lane) {
  return base + row_chunk_byte(row + lane % 16, chunk + lane / 16);
}
/// 8 rows from `row`, chunks chunk .. chunk + 3, one matrix a chunk.
__device__ __forceinline__ std::uint32_t rows8_address(std::uint32_t base, int row, int chunk,
                                                       int lane) {
  return base + row_chunk_byte(row + lane % 8, chunk + lane / 8);
}

/// Values of 16 tokens from `j` of one value tile, transposed: r[0] (tokens 0-7, e 0-7), r[1] (0-7,
/// 8-15), r[2] (8-15, 0-7), r[3] (8-15, 8-15). As B fragments: e 0-7 {r0, r2}, e 8-15 {r1, r3}; as an
/// A fragment [e, token]: r itself.
__device__ __forceinline__ void load_values(std::uint32_t (&r)[4], std::uint32_t tile, int j, int lane) {
  const int row = j + lane % 8 + lane / 16 * 8;
  load_matrices_transposed(r, tile + value_chunk_byte(row, lane / 8 % 2));
}

/// Folds a full block into the state. keys: 64 swizzled rows; values: one value tile; powers: w.
__device__ __forceinline__ void fold_state(State& s, std::uint32_t keys, std::uint32_t values,
                                           const float* powers, int lane) {
  std::uint32_t v[4][4];
#pragma unroll
  for (int t = 0; t < 4; ++t) {
    load_values(v[t], values, t * 16, lane);
    const int j = t * 16 + lane % 4 * 2;
#pragma unroll
    for (int half = 0; half < 2; ++half) {  // tokens j and j + 8
      const float w0 = powers[63 - j - 8 * half];
      const float w1 = powers[62 - j - 8 * half];
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        std::uint32_t& pair = v[t][2 * half + e];
        pair = pack_bf16(low_bf16(pair) * w0, high_bf16(pair) * w1);
      }
    }
  }
  const float decay = powers[kBlock];
#pragma unroll
  for (int n = 0; n < 16; n += 2) {  // two tiles of 8 keys
    float sum[2][4] = {};
#pragma unroll
    for (int t = 0; t < 4; ++t) {
      std::uint32_t k[4];
      load_matrices_transposed(k, rows16_address(keys, t * 16, n, lane));
      mma(sum[0], v[t], k[0], k[1]);
      mma(sum[1], v[t], k[2], k[3]);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      s[n][i] = fmaf(decay, s[n][i], sum[0][i]);
      s[n + 1][i] = fmaf(decay, s[n + 1][i], sum[1][i]);
    }
  }
}

}  // namespace fulgur::kernels::cuda
