// Lightning attention in block form: the pieces that decode and prefill share, so that a token has
// the same bits whichever computes it.
//
// Definition (per head, block of 64 tokens at absolute positions, i the token's place in its block,
// S the float32 state at the block's start, w[n] = exp(-rate n)):
//   o_i  = w[i + 1] (q_i · bf16(S)) + sum over j <= i of bf16(w[i - j] (q_i · k_j)) v_j
//   S'   = w[64] S + sum over j of k_j bf16(w[63 - j] v_j)
// Every sum is a chain of mma m16n8k16 with k ascending: d for dots, j for values. The state lives
// as accumulators of the transposed product [e, d]; rounded, those are the B fragments of q · S.
//
// A value tile is 16 values e; over all 128 keys d it is 64 float32 a lane.
#pragma once

#include "kernels/cuda/layout.hpp"
#include "kernels/cuda/ptx.cuh"

namespace fulgur::kernels::cuda {

constexpr int kTiles = kHeadDim / 16;  ///< value tiles of a head

/// Reads kCount tiles of 8 keys from tile `first` on, of value tile `tile`, from a head's slot.
template <int kCount>
__device__ __forceinline__ void load_state(float (&s)[kCount][4], const std::byte* slot, int tile,
                                           int first, int lane) {
#pragma unroll
  for (int n = 0; n < kCount; ++n) {
    const float4 v = load_streaming(slot + ((tile * 16 + first + n) * 32 + lane) * 16);
    s[n][0] = v.x, s[n][1] = v.y, s[n][2] = v.z, s[n][3] = v.w;
  }
}
template <int kCount>
__device__ __forceinline__ void store_state(const float (&s)[kCount][4], std::byte* slot, int tile,
                                            int first, int lane) {
#pragma unroll
  for (int n = 0; n < kCount; ++n) {
    *reinterpret_cast<float4*>(slot + ((tile * 16 + first + n) * 32 + lane) * 16) =
        make_float4(s[n][0], s[n][1], s[n][2], s[n][3]);
  }
}

/// B fragments of bf16(S) for step k (16 keys): values 0-7 in b[0..1], 8-15 in b[2..3].
template <int kCount>
__device__ __forceinline__ void state_operand(const float (&s)[kCount][4], int k,
                                              std::uint32_t (&b)[4]) {
  b[0] = pack_bf16(s[2 * k][0], s[2 * k][1]);
  b[1] = pack_bf16(s[2 * k + 1][0], s[2 * k + 1][1]);
  b[2] = pack_bf16(s[2 * k][2], s[2 * k][3]);
  b[3] = pack_bf16(s[2 * k + 1][2], s[2 * k + 1][3]);
}

/// Swizzled 256-byte rows (row_chunk_byte) for ldmatrix.x4. `base` is a multiple of 256, so a chunk
/// is chosen by one exclusive or: address = rows_at(lane base, first row, first chunk).
__device__ __forceinline__ std::uint32_t rows_at(std::uint32_t lane_base, int row, int chunk) {
  return (lane_base ^ (chunk * 16)) + row * 256;
}
/// Lane base for 16 rows and 2 chunks (even first chunk): matrices (rows 0-7, c), (8-15, c),
/// (0-7, c + 1), (8-15, c + 1).
__device__ __forceinline__ std::uint32_t lane_of_16_rows(std::uint32_t base, int lane) {
  return base + row_chunk_byte(lane % 16, lane / 16);
}
/// Lane base for 8 rows and 4 chunks (first chunk a multiple of 4), one matrix a chunk.
__device__ __forceinline__ std::uint32_t lane_of_8_rows(std::uint32_t base, int lane) {
  return base + row_chunk_byte(lane % 8, lane / 8);
}

/// Values of 16 tokens from `j` of one value tile, transposed: r[0] (tokens 0-7, e 0-7), r[1] (0-7,
/// 8-15), r[2] (8-15, 0-7), r[3] (8-15, 8-15). As B fragments: e 0-7 {r0, r2}, e 8-15 {r1, r3}; as
/// an A fragment [e, token]: r itself.
__device__ __forceinline__ void load_values(std::uint32_t (&r)[4], std::uint32_t tile, int j,
                                            int lane) {
  const int row = j + lane % 8 + lane / 16 * 8;
  load_matrices_transposed(r, tile + value_chunk_byte(row, lane / 8 % 2));
}

/// Multiplies the values of a block by w[63 - j], rounded to bf16: the right side of the fold.
__device__ __forceinline__ void decay_values(std::uint32_t (&v)[4][4], const float* powers,
                                             int lane) {
#pragma unroll
  for (int t = 0; t < 4; ++t) {
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
}

/// Folds a full block into kCount (a multiple of 4) tiles of 8 keys of the state, from `first` on.
/// keys: 64 swizzled rows; v: decayed values of one value tile; decay: w[64].
template <int kCount>
__device__ __forceinline__ void fold_state(float (&s)[kCount][4], const std::uint32_t (&v)[4][4],
                                           std::uint32_t keys, int first, float decay, int lane) {
  const std::uint32_t key_lane = lane_of_16_rows(keys, lane) ^ (first * 16);
  // Four tiles at once are four independent chains; keys are fetched one step ahead.
  std::uint32_t k[2][2][4];
  const auto fetch = [&](int n, int t) {
    load_matrices_transposed(k[t % 2][0], rows_at(key_lane, t * 16, n));
    load_matrices_transposed(k[t % 2][1], rows_at(key_lane, t * 16, n + 2));
  };
  fetch(0, 0);
#pragma unroll
  for (int n = 0; n < kCount; n += 4) {
    float sum[4][4] = {};
#pragma unroll
    for (int t = 0; t < 4; ++t) {
      if (t + 1 < 4) {
        fetch(n, t + 1);
      } else if (n + 4 < kCount) {
        fetch(n + 4, 0);
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        mma(sum[i], v[t], k[t % 2][i / 2][i % 2 * 2], k[t % 2][i / 2][i % 2 * 2 + 1]);
      }
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int e = 0; e < 4; ++e) s[n + i][e] = fmaf(decay, s[n + i][e], sum[i][e]);
    }
  }
}

}  // namespace fulgur::kernels::cuda
