// What decode and prefill of softmax attention have in common, and must: the order of operations in
// which a page of 64 positions joins a row. Decode multiplies by mma.sync, a token at a time,
// prefill by wgmma, eight; both add 16 products at once into a float32 sum, in the same order of
// steps, and the tests hold them to the same bits. Accumulators lie the same way in both: a lane
// has the row lane / 4 (and the one eight rows below), columns 8 n + 2 (lane % 4) + {0, 1}.
#pragma once

#include <cuda_runtime.h>

#include <cmath>

#include "kernels/cuda/layout.hpp"
#include "kernels/cuda/ptx.cuh"

namespace fulgur::kernels::cuda {

inline constexpr int kSplit = 512;  ///< equals kSoftmaxSplit
inline constexpr int kGroup = 8;    ///< query heads of a kv head
inline constexpr int kPiece = kBlock * kHeadDim * 2;

/// Largest score and sum of weights of what a row has seen.
struct Seen {
  float max = -INFINITY;
  float sum = 0;
};

/// Factors by which two partial results meet: of what was and of what comes.
struct Scales {
  float was;
  float comes;
};
/// `max` becomes the larger one.
__device__ __forceinline__ Scales merge_scales(float& max, float other) {
  const float larger = fmaxf(max, other);
  const Scales scales{exp2_fast(max - larger), exp2_fast(other - larger)};
  max = larger;
  return scales;
}
__device__ __forceinline__ float merged(float was, float comes, Scales scales) {
  return fmaf(was, scales.was, comes * scales.comes);
}

/// Score of a dot product in units of log2; -inf where the position is not seen. The product by the
/// scale is rounded, never fused with what follows.
__device__ __forceinline__ float score_of(float dot, bool seen) {
  constexpr float kScale = 1.4426950408889634F * 0.08838834764831845F;  // log2(e) / sqrt(128)
  return seen ? __fmul_rn(dot, kScale) : -INFINITY;
}

/// A row's scores of a page become its weights, relative to the largest score so far; the page
/// joins `seen`. Returns the factor for the output so far, to which the page's products are then
/// added.
__device__ __forceinline__ float weigh_page(float (&score)[8][2], Seen& seen) {
  float largest = score[0][0];
#pragma unroll
  for (int n = 0; n < 8; ++n) largest = fmaxf(largest, fmaxf(score[n][0], score[n][1]));
  largest = fmaxf(largest, __shfl_xor_sync(0xffffffffU, largest, 1));
  largest = fmaxf(largest, __shfl_xor_sync(0xffffffffU, largest, 2));
  largest = fmaxf(largest, seen.max);
  float sums[2] = {};
#pragma unroll
  for (int n = 0; n < 8; ++n) {
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      score[n][c] = exp2_fast(score[n][c] - largest);
      sums[c] += score[n][c];
    }
  }
  float sum = sums[0] + sums[1];
  sum += __shfl_xor_sync(0xffffffffU, sum, 1);
  sum += __shfl_xor_sync(0xffffffffU, sum, 2);
  const float scale = exp2_fast(seen.max - largest);
  seen.sum = fmaf(seen.sum, scale, sum);
  seen.max = largest;
  return scale;
}

/// Rows of values beyond the last position anybody sees become zero: 0 times whatever a page held
/// before must stay 0. By `threads` threads, this one the thread-th; the caller synchronises them.
__device__ __forceinline__ void clear_tail(std::uint32_t values, int valid, int thread,
                                           int threads) {
  for (int c = valid * 16 + thread; c < kBlock * 16; c += threads) {
    asm volatile(
        "st.shared.v4.b32 [%0], {%1, %1, %1, %1};" ::"r"(values + page_chunk_byte(c / 16, c % 16)),
        "r"(0)
        : "memory");
  }
}

}  // namespace fulgur::kernels::cuda
