// A warp's part in softmax decode, the same whatever sums whose order (softmax_decode.cu: fixed,
// softmax_free.cu: free): a Walk gives it items, consecutive pages of one sequence and KV head, and
// it leaves a partial result of each.
//
// An item has sequence, kv_head, length (of the sequence), pages and first_page(); the
// walk's slot() says which partial result is its own.
#pragma once

#include <cuda_runtime.h>

#include <cmath>

#include "kernels/cuda/launch.hpp"
#include "kernels/cuda/layout.hpp"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/softmax.cuh"

namespace fulgur::kernels::cuda {

// As softmax_decode() and softmax_scratch_bytes(), with free sums. softmax_decode() has checked the
// call.
cudaError_t softmax_decode_free(const SoftmaxDecode& call, cudaStream_t stream);
std::size_t softmax_free_scratch_bytes(int count, int heads);

inline constexpr int kDecodeWarps = 4;
inline constexpr int kRing = 3;
inline constexpr int kDecodeSharedBytes = kDecodeWarps * kRing * kPiece + 1024;
/// A partial result: [8 heads][128], then of each head max and sum.
inline constexpr int kPartialFloats = kGroup * (kHeadDim + 2);

/// The warp's ring: issues pieces (keys, values, keys, ...) of its items in order, ahead of use.
template <typename Walk>
class PieceRing {
 public:
  __device__ PieceRing(const SoftmaxDecode& call, const Walk& walk, std::uint32_t data,
                       std::uint32_t barriers)
      : call_(call), walk_(walk), data_(data), barriers_(barriers) {
    more_ = walk_.next(item_);
  }

  /// Starts the next copy, if any is left; its place in the ring must be free. One lane copies.
  __device__ void issue(int lane) {
    if (!more_) return;
    const std::uint32_t place = issued_ % kRing;
    if (lane == 0) {
      const int table = call_.sequence != nullptr ? call_.sequence[item_.sequence] : item_.sequence;
      const int page = call_.page_table[static_cast<std::size_t>(table) * call_.table_stride +
                                        item_.first_page() + piece_ / 2];
      const auto* from =
          static_cast<const std::byte*>(call_.pages) +
          ((static_cast<std::size_t>(page) * call_.kv_heads + item_.kv_head) * 2 + piece_ % 2) *
              kPiece;
      const std::uint32_t barrier = barriers_ + place * 8;
      barrier_expect(barrier, kPiece);
      bulk_copy(data_ + place * kPiece, from, kPiece, barrier, evict_first_policy());
    }
    ++issued_;
    if (++piece_ == 2 * item_.pages) {
      piece_ = 0;
      more_ = walk_.next(item_);
    }
  }

  /// Waits for the next piece; returns its shared address.
  __device__ std::uint32_t wait() {
    const std::uint32_t place = used_ % kRing;
    barrier_wait(barriers_ + place * 8, used_ / kRing & 1);
    ++used_;
    return data_ + place * kPiece;
  }

 private:
  const SoftmaxDecode& call_;
  Walk walk_;
  std::uint32_t data_;
  std::uint32_t barriers_;
  typename Walk::Item item_{};
  bool more_;
  int piece_ = 0;
  std::uint32_t issued_ = 0;
  std::uint32_t used_ = 0;
};

/// One token's 8 query heads, as the upper half of left operands of 16 rows.
struct Queries {
  std::uint32_t q[8][2];

  /// Row `row` of [rows, 128] bf16 is this lane's head.
  __device__ __forceinline__ void load(const void* rows, std::size_t row, int lane) {
    const auto* query = static_cast<const std::uint32_t*>(rows) + row * (kHeadDim / 2);
#pragma unroll
    for (int k = 0; k < 8; ++k) {
      q[k][0] = query[k * 8 + lane % 4];
      q[k][1] = query[k * 8 + 4 + lane % 4];
    }
  }
};

/// Running result of an item; a lane holds head lane / 4, dims 8 n + 2 (lane % 4) + {0, 1}.
struct Running {
  Seen seen;
  float out[kHeadDim / 8][2];
};

/// Scores of a page, -inf from position `valid` on.
__device__ __forceinline__ void score_page(const Queries& queries, std::uint32_t keys, int valid,
                                           int lane, float (&score)[8][2]) {
#pragma unroll
  for (int n = 0; n < 8; ++n) {
    float dots[4] = {};
#pragma unroll
    for (int k = 0; k < 8; k += 2) {
      std::uint32_t b[4];
      load_matrices(b, keys + page_chunk_byte(n * 8 + lane % 8, k * 2 + lane / 8));
      const std::uint32_t a0[4] = {queries.q[k][0], 0, queries.q[k][1], 0};
      const std::uint32_t a1[4] = {queries.q[k + 1][0], 0, queries.q[k + 1][1], 0};
      mma(dots, a0, b[0], b[1]);
      mma(dots, a1, b[2], b[3]);
    }
    const int position = n * 8 + lane % 4 * 2;
    score[n][0] = score_of(dots[0], position < valid);
    score[n][1] = score_of(dots[1], position + 1 < valid);
  }
}

/// Adds a page to `run`: its weights from the scores, times its values.
__device__ __forceinline__ void add_page(float (&score)[8][2], std::uint32_t values, int lane,
                                         Running& run) {
  const float scale = weigh_page(score, run.seen);
  std::uint32_t a[4][4];
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    a[j][0] = pack_bf16(score[2 * j][0], score[2 * j][1]);
    a[j][2] = pack_bf16(score[2 * j + 1][0], score[2 * j + 1][1]);
    a[j][1] = a[j][3] = 0;
  }
#pragma unroll
  for (int n = 0; n < 16; n += 2) {
    float sum[2][4];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      sum[i][0] = run.out[n + i][0] * scale;
      sum[i][1] = run.out[n + i][1] * scale;
      sum[i][2] = sum[i][3] = 0;
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      std::uint32_t b[4];
      load_matrices_transposed(b, values + page_chunk_byte(j * 16 + lane % 16, n + lane / 16));
      mma(sum[0], a[j], b[0], b[1]);
      mma(sum[1], a[j], b[2], b[3]);
    }
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      run.out[n + i][0] = sum[i][0];
      run.out[n + i][1] = sum[i][1];
    }
  }
}

template <typename Walk>
__device__ void work_items(const SoftmaxDecode& call, Walk walk, PieceRing<Walk>& ring, int lane) {
  for (int i = 0; i < kRing; ++i) ring.issue(lane);
  typename Walk::Item item;
  while (walk.next(item)) {
    const int head = item.kv_head * kGroup + lane / 4;
    Queries q;
    q.load(call.q, static_cast<std::size_t>(item.sequence) * call.heads + head, lane);
    Running run{};
    for (int page = 0; page < item.pages; ++page) {
      const int valid = min(item.length - item.first_page() * kBlock - page * kBlock, kBlock);
      float score[8][2];
      score_page(q, ring.wait(), valid, lane, score);
      __syncwarp();
      ring.issue(lane);
      const std::uint32_t values = ring.wait();
      if (valid < kBlock) {
        clear_tail(values, valid, lane, 32);
        __syncwarp();
      }
      add_page(score, values, lane, run);
      if (valid < kBlock) async_proxy_fence();
      __syncwarp();
      ring.issue(lane);
    }
    float* to = call.partial + walk.slot(item) * kPartialFloats;
#pragma unroll
    for (int n = 0; n < 16; ++n) {
      *reinterpret_cast<float2*>(to + lane / 4 * kHeadDim + n * 8 + lane % 4 * 2) =
          make_float2(run.out[n][0], run.out[n][1]);
    }
    if (lane % 4 == 0) {
      *reinterpret_cast<float2*>(to + kGroup * kHeadDim + lane / 4 * 2) =
          make_float2(run.seen.max, run.seen.sum);
    }
  }
}

}  // namespace fulgur::kernels::cuda
