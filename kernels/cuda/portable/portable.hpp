// Host entry points of the portable CUDA kernels: every operation of kernels::Backend for any
// shape, in float32 and bf16, on sm_80 and up, with the reference's order of operations and so with
// its bits. They are the path for shapes the fast kernels do not cover and the yardstick for those.
// Every pointer is device memory, aligned to its element; calls only enqueue on `stream` and return
// the launch's error.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "common/base/dtype.hpp"
#include "kernels/include/fulgur/kernels/draw.hpp"

namespace fulgur::kernels::cuda::portable {

// --- Products ----------------------------------------------------------------------------------

/// A weight [rows, cols]: element (n, k) at index (k / 2 * rows + n) * 2 + k % 2, so that threads
/// of neighbouring rows read neighbouring words; an odd last column has a zero beside it.
struct Weight {
  const void* data = nullptr;
  std::uint32_t rows = 0;
  std::uint32_t cols = 0;
  Dtype dtype = Dtype::bf16;  ///< bf16 or f32
};
inline std::size_t weight_bytes(std::size_t rows, std::size_t cols, Dtype dtype) {
  return rows * (cols + cols % 2) * size_of(dtype);
}
/// Puts `source` [rows, cols] row-major of any dtype into rows first_row... of a zeroed weight.
cudaError_t pack(const void* source, Dtype source_dtype, std::uint32_t rows,
                 std::uint32_t first_row, const Weight& weight, void* data, cudaStream_t stream);
/// Fills a weight with seeded values, roughly normal with this deviation, rounded to bf16.
cudaError_t fill(std::uint64_t seed, float deviation, std::size_t count, Dtype dtype, void* data,
                 cudaStream_t stream);

/// One group of rows of a product and its weight.
struct ProductGroup {
  Weight weight;
  std::uint32_t first = 0;  ///< its rows are list entries [first, first + rows)
  std::uint32_t rows = 0;
};
/// out[i] = x[list[i]] · weightᵀ for the entries of each group (list null: i). x [*, cols], out
/// [*, out_stride] float32; groups [count] on the device; rows_max: the most rows of a group.
/// Every group has the same number of features (weight rows).
cudaError_t product(const float* x, const std::uint32_t* list, const ProductGroup* groups,
                    std::uint32_t count, std::uint32_t rows_max, std::uint32_t cols,
                    std::uint32_t features, float* out, cudaStream_t stream);
/// The same for one weight and rows 0 .. rows - 1.
cudaError_t product(const float* x, std::uint32_t rows, const Weight& weight, float* out,
                    cudaStream_t stream);

// --- Rows ----------------------------------------------------------------------------------------

/// out[i] = x[i] as float32, rounded to bf16 first where `round` says so.
cudaError_t widen(const void* x, Dtype dtype, bool round, std::size_t count, float* out,
                  cudaStream_t stream);
/// out = x in f32 or bf16.
cudaError_t narrow(const float* x, std::size_t count, Dtype dtype, void* out, cudaStream_t stream);
/// out[i] = table[ids[i]] as float32.
cudaError_t embed(const void* table, Dtype dtype, const std::uint32_t* ids, std::size_t rows,
                  std::size_t dim, float* out, cudaStream_t stream);
/// gate null: RMSNorm; else RMSNorm times sigmoid(gate). out may alias x.
cudaError_t norm(const float* x, const float* gate, const float* weight, float eps,
                 std::size_t rows, std::size_t dim, float* out, cudaStream_t stream);
cudaError_t scale_add(float alpha, const float* x, float beta, const float* y, std::size_t count,
                      float* out, cudaStream_t stream);
/// out[i] = y[rows[i]] in f32 or bf16.
cudaError_t gather(const float* y, const std::uint32_t* rows, std::size_t count, std::size_t dim,
                   Dtype dtype, void* out, cudaStream_t stream);
/// to[i] = from[i], rows of row_bytes bytes; from, to [count] on the device. alignment: of every
/// address and of row_bytes; the more, the fewer loads.
cudaError_t copy_rows(const void* const* from, void* const* to, std::size_t count,
                      std::size_t row_bytes, std::size_t alignment, cudaStream_t stream);
/// outputs [rows * k]: where the rows [hidden] of dtype are.
cudaError_t combine(const float* y, std::size_t rows, std::size_t hidden, std::uint32_t k,
                    const float* weights, const void* const* outputs, Dtype dtype, float alpha,
                    float beta, float* out, cudaStream_t stream);
/// inner = silu(gate) * up, rounded to bf16 where `round` says so. gate_up [rows, 2 inner].
cudaError_t swiglu(const float* gate_up, std::size_t rows, std::size_t inner, bool round,
                   float* out, cudaStream_t stream);
/// Top-k of each row of logits [rows, experts], which are overwritten.
cudaError_t choose(float* logits, std::size_t rows, std::uint32_t experts, std::uint32_t k,
                   std::uint16_t* chosen, float* weights, cudaStream_t stream);

/// The largest element of a part of a row.
struct ArgmaxPart {
  float value;
  std::uint32_t place;
};
inline constexpr std::size_t kArgmaxColumns = 4096;  ///< of a part
constexpr std::size_t argmax_parts(std::size_t cols) {
  return (cols + kArgmaxColumns - 1) / kArgmaxColumns;
}
/// The first of the largest of each row. partial: scratch [rows, argmax_parts(cols)].
cudaError_t argmax(const float* x, std::size_t rows, std::size_t cols, ArgmaxPart* partial,
                   std::uint32_t* ids, cudaStream_t stream);

/// A part of a row of logits, between the kernels of draw().
struct DrawPart {
  float raw_highest;   ///< of all tokens
  float highest;       ///< of those that may be drawn
  std::uint32_t best;  ///< the token of `highest`
  double raw_sum;
  double sum;
};
struct DrawRow {
  double uniform;
  float scale;  ///< 1 / temperature; 0: the most likely token
  std::uint32_t row;
};
inline constexpr std::size_t kDrawPartsMax = 256;
inline constexpr std::size_t draw_parts(std::size_t vocab) {
  return (vocab + kDrawColumns - 1) / kDrawColumns;
}
/// out[i] for rows[i]: Backend::draw(). logits [*, vocab], vocab at most kDrawColumns *
/// kDrawPartsMax; banned: a bit a token; parts: scratch [count, draw_parts(vocab)].
cudaError_t draw(const float* logits, std::size_t vocab, const DrawRow* rows, std::size_t count,
                 const std::uint32_t* banned, DrawPart* parts, Drawn* out, cudaStream_t stream);
/// The first half of it: parts, and nothing is chosen.
cudaError_t draw_sums(const float* logits, std::size_t vocab, const DrawRow* rows,
                      std::size_t count, const std::uint32_t* banned, DrawPart* parts,
                      cudaStream_t stream);
/// out[i] from rows[i]'s parts and drawn token; the raw half of it from row raw_rows[i] of
/// raw_parts, unless that is kOwnParts.
inline constexpr std::uint32_t kOwnParts = 0xffffffffU;
cudaError_t draw_totals(const float* logits, std::size_t vocab, const DrawRow* rows,
                        std::size_t count, const DrawPart* parts, const std::uint32_t* raw_rows,
                        const DrawPart* raw_parts, const Drawn* drawn, RankTotals* out,
                        cudaStream_t stream);

/// A LogitEdit of one row of logits.
struct RowEdit {
  std::uint32_t row;
  LogitEdit edit;
};
/// Edits logits [*, vocab], no logit twice; before[i]: what edits[i] changed.
cudaError_t edit_logits(float* logits, std::size_t vocab, const RowEdit* edits, std::size_t count,
                        float* before, cudaStream_t stream);
/// out [count, kRanks]: the most likely tokens of rows[i], as in Ranked::tokens; behind the end of
/// a smaller vocabulary undefined. groups: scratch [count, draw_parts(vocab), kRanks].
cudaError_t rank(const float* logits, std::size_t vocab, const std::uint32_t* rows,
                 std::size_t count, std::uint64_t* groups, RankedToken* out, cudaStream_t stream);

// --- Attention -----------------------------------------------------------------------------------

/// Consecutive tokens of one sequence (device array).
struct LightningRows {
  std::uint32_t row;
  std::uint32_t rows;
  std::uint64_t position;
  void* slot;
};
/// One head's part of a slot: state float32 [dim, dim], then the open block's keys and values
/// [64, dim] in the mode's type.
inline std::size_t lightning_head_bytes(std::size_t dim, bool bf16) {
  return dim * dim * 4 + 2 * 64 * dim * (bf16 ? 2 : 4);
}
/// Copies qkv [rows, heads, 3, dim] through SiLU into `active`, keys and values rounded to the
/// mode's type.
cudaError_t lightning_active(const float* qkv, std::size_t rows, std::uint32_t heads,
                             std::uint32_t dim, bool bf16, float* active, cudaStream_t stream);
/// active from lightning_active; powers [heads, 65]: exp(-rate n).
cudaError_t lightning(const float* active, const LightningRows* segments, std::uint32_t count,
                      std::uint32_t heads, std::uint32_t dim, bool bf16, const float* powers,
                      float* out, cudaStream_t stream);

/// One token of a softmax call (device array).
struct SoftmaxToken {
  std::uint32_t row;    ///< in qkv and out
  std::uint32_t pages;  ///< where its sequence's page numbers begin in the list of pages
  std::uint64_t position;
};
struct Softmax {
  const float* qkv;            ///< [*, heads + 2 kv_heads, dim] before rotation
  const SoftmaxToken* tokens;  ///< [count]
  std::uint32_t count;
  const std::uint32_t* page_list;
  const float* angles;  ///< [count, 2, rotary_dim / 2] cosines, then sines
  void* pages;          ///< [*][kv_heads][keys, values][64][dim] of the mode's type
  float* queries;       ///< scratch [count, heads, dim]
  float* out;           ///< [*, heads, dim]
  std::uint32_t heads;
  std::uint32_t kv_heads;
  std::uint32_t dim;
  std::uint32_t half;  ///< rotary_dim / 2
  float scale;         ///< 1 / sqrt(dim)
};
inline std::size_t softmax_page_bytes(std::size_t kv_heads, std::size_t dim, bool bf16) {
  return kv_heads * 2 * 64 * dim * (bf16 ? 2 : 4);
}
/// Writes keys and values of all tokens to their pages, then attends.
cudaError_t softmax(const Softmax& call, bool bf16, cudaStream_t stream);

}  // namespace fulgur::kernels::cuda::portable
