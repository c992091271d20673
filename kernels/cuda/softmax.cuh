// What decode and prefill of softmax attention have in common, and must: a page's share of a row,
// in one order of operations. The 8 query heads of a KV head are rows of an mma tile of 16; decode
// has one token in it, prefill two. A row of a tile is computed from that row's operands alone, so
// both give a token the same bits.
#pragma once

#include <cuda_runtime.h>

#include <cmath>

#include "kernels/cuda/layout.hpp"
#include "kernels/cuda/ptx.cuh"

namespace fulgur::kernels::cuda {

inline constexpr int kSplit = 512;  ///< equals kSoftmaxSplit
inline constexpr int kGroup = 8;    ///< query heads of a kv head
inline constexpr int kPiece = kBlock * kHeadDim * 2;

/// Running result of a split; a lane holds head lane / 4, dims 8 n + 2 (lane % 4) + {0, 1}.
struct Running {
  float max;
  float sum;
  float out[kHeadDim / 8][2];
};

/// Queries of kTokens tokens as left operands: [k][2 token + {low, high columns}].
template <int kTokens>
struct Queries {
  std::uint32_t q[8][2 * kTokens];

  /// Row `row` of [rows, 128] bf16 is this lane's head of the token.
  __device__ __forceinline__ void load(int token, const void* rows, std::size_t row, int lane) {
    const auto* query = static_cast<const std::uint32_t*>(rows) + row * (kHeadDim / 2);
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      q[k][2 * token] = query[k * 8 + lane % 4];
      q[k][2 * token + 1] = query[k * 8 + 4 + lane % 4];
    }
  }
  __device__ __forceinline__ void clear(int token) {
#pragma unroll
    for (int k = 0; k < 8; ++k) q[k][2 * token] = q[k][2 * token + 1] = 0;
  }
  __device__ __forceinline__ void operand(int k, std::uint32_t (&a)[4]) const {
    a[0] = q[k][0];
    a[2] = q[k][1];
    a[1] = kTokens == 2 ? q[k][2 * kTokens - 2] : 0;
    a[3] = kTokens == 2 ? q[k][2 * kTokens - 1] : 0;
  }
};

/// Factors of what was and what comes when two partial results meet; `max` becomes theirs.
__device__ __forceinline__ void merge_scales(float& max, float other, float& old_scale,
                                             float& new_scale) {
  const float larger = fmaxf(max, other);
  old_scale = exp2f(max - larger);
  new_scale = exp2f(other - larger);
  max = larger;
}
__device__ __forceinline__ float merged(float was, float old_scale, float comes, float new_scale) {
  return fmaf(was, old_scale, comes * new_scale);
}

/// Scores of a page in units of log2, -inf beyond a token's `valid` positions: s[token][n][..] of
/// positions 8 n + ... The product by the scale is rounded, never fused with what follows.
template <int kTokens>
__device__ __forceinline__ void score_page(const Queries<kTokens>& queries, std::uint32_t keys,
                                           const int (&valid)[kTokens], int lane,
                                           float (&score)[kTokens][8][2]) {
  const float scale = 1.4426950408889634F * 0.08838834764831845F;  // log2(e) / sqrt(128)
#pragma unroll
  for (int n = 0; n < 8; ++n) {
    float dots[4] = {};
#pragma unroll
    for (int k = 0; k < 8; k += 2) {
      std::uint32_t b[4];
      load_matrices(b, keys + row_chunk_byte(n * 8 + lane % 8, k * 2 + lane / 8));
      std::uint32_t a0[4], a1[4];
      queries.operand(k, a0);
      queries.operand(k + 1, a1);
      mma(dots, a0, b[0], b[1]);
      mma(dots, a1, b[2], b[3]);
    }
    const int position = n * 8 + lane % 4 * 2;
#pragma unroll
    for (int t = 0; t < kTokens; ++t) {
      score[t][n][0] = position < valid[t] ? __fmul_rn(dots[2 * t], scale) : -INFINITY;
      score[t][n][1] = position + 1 < valid[t] ? __fmul_rn(dots[2 * t + 1], scale) : -INFINITY;
    }
  }
}

/// Scores to weights, and the scales by which the page joins what was before.
__device__ __forceinline__ void weigh_page(float (&score)[8][2], Running& run, float& old_scale,
                                           float& new_scale) {
  float page_max = score[0][0];
#pragma unroll
  for (int n = 0; n < 8; ++n) page_max = fmaxf(page_max, fmaxf(score[n][0], score[n][1]));
  page_max = fmaxf(page_max, __shfl_xor_sync(0xffffffffU, page_max, 1));
  page_max = fmaxf(page_max, __shfl_xor_sync(0xffffffffU, page_max, 2));
  float page_sum = 0;
#pragma unroll
  for (int n = 0; n < 8; ++n) {
    score[n][0] = exp2f(score[n][0] - page_max);
    score[n][1] = exp2f(score[n][1] - page_max);
    page_sum += score[n][0];
    page_sum += score[n][1];
  }
  page_sum += __shfl_xor_sync(0xffffffffU, page_sum, 1);
  page_sum += __shfl_xor_sync(0xffffffffU, page_sum, 2);
  merge_scales(run.max, page_max, old_scale, new_scale);
  run.sum = merged(run.sum, old_scale, page_sum, new_scale);
}

/// Adds a page: its weights from the scores, times its values, merged into `run`. A token that sees
/// nothing of the page (valid <= 0) is left as it was. All lanes of a warp have the same `valid`.
template <int kTokens>
__device__ __forceinline__ void add_page(float (&score)[kTokens][8][2], std::uint32_t values,
                                         const int (&valid)[kTokens], int lane,
                                         Running (&run)[kTokens]) {
  float old_scale[kTokens], new_scale[kTokens];
#pragma unroll
  for (int t = 0; t < kTokens; ++t) {
    if (kTokens == 1 || valid[t] > 0) {
      weigh_page(score[t], run[t], old_scale[t], new_scale[t]);
    } else {
      old_scale[t] = 1;
      new_scale[t] = 0;
#pragma unroll
      for (int n = 0; n < 8; ++n) score[t][n][0] = score[t][n][1] = 0;
    }
  }
  std::uint32_t a[4][4];
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    a[j][0] = pack_bf16(score[0][2 * j][0], score[0][2 * j][1]);
    a[j][2] = pack_bf16(score[0][2 * j + 1][0], score[0][2 * j + 1][1]);
    a[j][1] = a[j][3] = 0;
    if constexpr (kTokens == 2) {
      a[j][1] = pack_bf16(score[1][2 * j][0], score[1][2 * j][1]);
      a[j][3] = pack_bf16(score[1][2 * j + 1][0], score[1][2 * j + 1][1]);
    }
  }
#pragma unroll
  for (int n = 0; n < 16; n += 2) {
    float sum[2][4] = {};
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      std::uint32_t b[4];
      load_matrices_transposed(b, values + row_chunk_byte(j * 16 + lane % 16, n + lane / 16));
      mma(sum[0], a[j], b[0], b[1]);
      mma(sum[1], a[j], b[2], b[3]);
    }
#pragma unroll
    for (int t = 0; t < kTokens; ++t) {
      if (kTokens == 2 && valid[t] <= 0) continue;
#pragma unroll
      for (int i = 0; i < 2; ++i) {
#pragma unroll
        for (int c = 0; c < 2; ++c) {
          run[t].out[n + i][c] =
              merged(run[t].out[n + i][c], old_scale[t], sum[i][2 * t + c], new_scale[t]);
        }
      }
    }
  }
}

/// Rows of values beyond the last position anybody sees become zero: 0 times whatever a page held
/// before must stay 0. By `threads` threads, this one the thread-th; the caller synchronises them.
__device__ __forceinline__ void clear_tail(std::uint32_t values, int valid, int thread,
                                           int threads) {
  for (int c = valid * 16 + thread; c < kBlock * 16; c += threads) {
    asm volatile("st.shared.v4.b32 [%0], {%1, %1, %1, %1};" ::"r"(values + c * 16), "r"(0)
                 : "memory");
  }
}

}  // namespace fulgur::kernels::cuda
