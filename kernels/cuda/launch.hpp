// Host entry points of the CUDA kernels. Every pointer is device memory unless it says host; every
// call only enqueues on `stream` (no synchronisation, so calls can be captured in a graph) and
// returns the launch's error. bf16 operands, float32 sums; shapes and layouts: layout.hpp.
//
// Exact mode: a row's result depends on that row (and the state it names) alone. Every sum has one
// order, fixed by k, by absolute position or by slot; no kernel uses split-K, stream-K or atomics.
// It is what serves. Beside it product() and softmax_decode() can choose the order by the shape of
// the call (Sums::free), so that the cost of exact mode can be measured; the other kernels would
// gain nothing by that (docs/performance.md, "What exact mode costs").
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "kernels/include/fulgur/kernels/sums.hpp"

namespace fulgur::kernels::cuda {

/// Whether kernels may begin while the one before them still runs (overlap.hpp): at first true, the
/// whole process. For benches and tests, which compare both; a captured graph keeps what it was
/// captured with.
void overlap_launches(bool overlap);

// --- Weights ---------------------------------------------------------------------------------

/// Rows of a packed weight: a multiple of this, padded with zeros.
inline constexpr int kPackedRows = 256;

/// Packs `weight` [rows, cols] bf16 row-major into rows first_row... of a packed matrix of `cols`
/// columns (packed_byte()). interleave: 0 none; 1 gate, 2 up of a stacked gate + up matrix.
cudaError_t pack_weight(const void* weight, int rows, int cols, int first_row, int interleave,
                        void* packed, cudaStream_t stream);

// --- Grouping of routes by expert ------------------------------------------------------------

/// Rows of a call grouped by expert. All arrays on the device.
struct RouteGroups {
  int* counts;   ///< [groups] rows of a group
  int* offsets;  ///< [groups] first tiled row of a group, a multiple of 8
  int* source;   ///< [capacity] token of a tiled row, -1: padding
  int* target;   ///< [capacity] route (token * k + slot) of a tiled row
  int groups;    ///< at most kMaxGroups
  int capacity;  ///< tiled_capacity(routes, groups)
};
inline constexpr int kMaxGroups = 256;

/// Rows that a tiled operand of `routes` rows in `groups` groups needs, padding included.
inline int tiled_capacity(int routes, int groups) {
  return (routes + 7 * groups + 7) / 8 * 8 + 256;
}

/// Fills `groups` from experts [tokens, k], ids below groups.groups; order within a group: routes
/// ascending.
cudaError_t plan_groups(const std::uint16_t* experts, int tokens, int k, const RouteGroups& groups,
                        cudaStream_t stream);

/// tiled row r = bf16(x[source[r]]). x [tokens, dim] row-major bf16 or float32; dim % 64 == 0.
cudaError_t gather_tiled(const void* x, bool x_is_f32, int dim, const RouteGroups& groups,
                         void* tiled, cudaStream_t stream);
/// tiled row r = bf16(x[r]), r < rows.
cudaError_t tile_rows(const void* x, bool x_is_f32, int rows, int dim, int capacity, void* tiled,
                      cudaStream_t stream);

// --- Products --------------------------------------------------------------------------------

enum class Store : std::uint8_t {
  /// silu(gate) * up as the tiled left operand of the next product. In a group's last eight rows
  /// those beyond its count may be overwritten.
  swiglu_tiled,
  bf16_rows,  ///< row-major bf16
  silu_bf16_rows,
  f32_rows,
};

/// out = x · weightᵀ for one or several groups of rows, each with a weight of its own.
struct Product {
  const void* x;               ///< tiled rows [*, cols]
  int capacity;                ///< of x (and of a tiled out)
  int cols;                    ///< K, a multiple of 64
  int weight_rows;             ///< packed rows, a multiple of kPackedRows
  const void* const* weights;  ///< [groups] device array of packed weights, or null:
  const void* weight;          ///< the one weight
  const int* counts;           ///< [groups] on the device, or null:
  int rows;                    ///< rows of the only group; else the most rows of all groups
  const int* offsets;          ///< [groups] on the device, multiples of 8; null: 0
  int groups;
  Store store;
  void* out;
  const int* out_rows;  ///< [capacity] output row of a tiled row; null: the same
  int features;         ///< columns of out, at most weight_rows; even for bf16
  /// The kernel launched before this one writes none of weights, weight (nor what they point to),
  /// counts and offsets: they may be read while it still runs (overlap.hpp).
  bool early;
  Sums sums;            ///< of product(); product_fp8() knows fixed ones only
  void* partials;       ///< free sums: product_partials_bytes(), zero before the first call, and
                        ///< again after each; calls at the same time need their own
};
cudaError_t product(const Product& product, cudaStream_t stream);
/// For any product on the current device.
std::size_t product_partials_bytes();

/// One layer's experts: out[route] = expert(x[token]) un-weighted, bf16 [tokens * k, hidden].
/// gate_up: packed [2 inner, hidden], interleaved; down: packed [hidden, inner].
struct Experts {
  const void* const* gate_up;  ///< [groups] device array
  const void* const* down;     ///< [groups] device array
  int hidden;
  int inner;
  void* tiled_x;      ///< scratch, capacity * hidden * 2 bytes
  void* tiled_inner;  ///< scratch, capacity * inner * 2 bytes
  Sums sums = Sums::fixed;
  void* partials = nullptr;  ///< as of Product
};
cudaError_t experts(const void* x, bool x_is_f32, int routes, const RouteGroups& groups,
                    const Experts& experts, void* out, cudaStream_t stream);

/// The two products of experts(), by product() or product_fp8(), right after its gather: the plan
/// was written before that (Product::early).
using ProductCall = cudaError_t (*)(const Product&, cudaStream_t);
cudaError_t expert_products(ProductCall call, int routes, const RouteGroups& groups,
                            const Experts& experts, void* out, cudaStream_t stream);

// --- FP8 experts -----------------------------------------------------------------------------
// e4m3 with block scales (layout.hpp); float32 sums of 128-column sums, columns ascending.

/// Quantises `weight` [rows, cols] bf16 or float32 row-major, 128 x 128 weights a scale, into a
/// packed matrix of packed8_bytes(packed_rows, cols). interleave: 0 rows first_row...; 1 gate, 2 up
/// of a stacked gate + up matrix, features first_row.... All sizes multiples of 128, packed_rows of
/// 256.
cudaError_t quantize_weight(const void* weight, bool is_f32, int rows, int cols, int first_row,
                            int interleave, int packed_rows, void* packed, cudaStream_t stream);
/// tiled row r = x[source[r]] quantised, 128 columns a scale: tiled8_bytes(capacity, dim).
cudaError_t gather_tiled_fp8(const void* x, bool x_is_f32, int dim, const RouteGroups& groups,
                             void* tiled, cudaStream_t stream);
/// As product(), x and weights quantised; cols a multiple of 128. swiglu_tiled quantises what it
/// stores; silu_bf16_rows is not there.
cudaError_t product_fp8(const Product& product, cudaStream_t stream);
/// As experts(); tiled_x, tiled_inner: tiled8_bytes(capacity, hidden or inner); inner a multiple of
/// 128.
cudaError_t experts_fp8(const void* x, bool x_is_f32, int routes, const RouteGroups& groups,
                        const Experts& experts, void* out, cudaStream_t stream);

/// out[t] = alpha y[t] + beta * sum over slots ascending of weights[t, s] * outputs[t * k + s].
/// y, out float32 [tokens, dim]; outputs bf16.
cudaError_t combine(const float* y, int tokens, int dim, int k, const float* weights,
                    const void* outputs, float alpha, float beta, float* out, cudaStream_t stream);
/// The same with each output at a place of its own: outputs [tokens * k] on the device, 8-byte
/// aligned.
cudaError_t combine_places(const float* y, int tokens, int dim, int k, const float* weights,
                           const void* const* outputs, float alpha, float beta, float* out,
                           cudaStream_t stream);

// --- Lightning attention, block form ---------------------------------------------------------

/// One sequence's consecutive tokens in a call (device array).
struct LightningRows {
  int row;                ///< first row in qkv and out
  int rows;               ///< >= 1
  std::int64_t position;  ///< of the first token
  void* slot;             ///< heads * kHeadSlotBytes; ignored at position 0
};
/// qkv [*, heads, 3, 128] bf16 after SiLU; out [*, heads, 128] bf16; powers [heads, 65] float32:
/// exp(-rate n). Any rows. `segments` on the device.
cudaError_t lightning_prefill(const void* qkv, const LightningRows* segments, int count, int heads,
                              const float* powers, void* out, cudaStream_t stream);
/// The same for segments of one row each, bit for bit.
cudaError_t lightning_decode(const void* qkv, const LightningRows* segments, int count, int heads,
                             const float* powers, void* out, cudaStream_t stream);

// --- Softmax attention, paged ----------------------------------------------------------------

/// Rows of one call at most.
inline constexpr int kSoftmaxDecodeRows = 1024;

/// Pages are [kv_heads][keys, values][64 tokens][128] bf16, rows laid out by page_chunk_byte().
struct SoftmaxDecode {
  const void* q;          ///< [count, heads, 128] bf16, rotated
  const void* pages;      ///< the layer's pool
  const int* page_table;  ///< [sequences, table_stride] page numbers
  int table_stride;
  const int* sequence;  ///< [count] row of page_table; null: the same
  const int* lengths;   ///< [count] positions a sequence attends to, >= 1
  int lengths_max;      ///< host: the largest possible length
  int count;
  int heads;  ///< 8 per kv head
  int kv_heads;
  float* partial;  ///< scratch of softmax_scratch_bytes()
  void* out;       ///< [count, heads, 128] bf16
  Sums sums;
};
std::size_t softmax_scratch_bytes(int count, int heads, int lengths_max, Sums sums = Sums::fixed);
cudaError_t softmax_decode(const SoftmaxDecode& call, cudaStream_t stream);

/// Consecutive tokens of one sequence, at most kSoftmaxTileRows (device array).
struct SoftmaxTile {
  int row;  ///< first row in q and out
  int rows;
  int position;  ///< of the first token
  int table;     ///< row of page_table
};
inline constexpr int kSoftmaxTileRows = 16;
/// The same as softmax_decode() for chunks, bit for bit: a token sees the positions up to its own.
struct SoftmaxPrefill {
  const void* q;          ///< [*, heads, 128] bf16, rotated
  const void* pages;      ///< the layer's pool, keys and values of all tokens written
  const int* page_table;  ///< [sequences, table_stride]
  int table_stride;
  const SoftmaxTile* tiles;  ///< [count]
  int count;
  int heads;  ///< 8 per kv head
  int kv_heads;
  void* out;  ///< [*, heads, 128] bf16
};
cudaError_t softmax_prefill(const SoftmaxPrefill& call, cudaStream_t stream);

/// Rotates q and k, writes k and v into their pages and q to `q_out` [rows, heads, 128] bf16. qkv
/// [rows, heads + 2 kv_heads, 128] bf16; sequence [rows] row of page_table; position [rows];
/// frequencies [rotary_dim / 2] float32.
cudaError_t rotary_cache(const void* qkv, int rows, int heads, int kv_heads, int rotary_dim,
                         const float* frequencies, const int* sequence, const int* position,
                         const int* page_table, int table_stride, void* pages, void* q_out,
                         cudaStream_t stream);

// --- Rows --------------------------------------------------------------------------------------

/// h = alpha * x + beta * y (y null: h = x); normed = weight * h / sqrt(mean(h^2) + eps): float32
/// to `out` and bf16 tiled to `tiled` (either may be null). x, y, out [rows, dim] float32; dim <=
/// 8192, a multiple of 64.
cudaError_t residual_norm(const float* x, const float* y, float alpha, float beta,
                          const float* weight, float eps, int rows, int dim, float* out,
                          void* tiled, int capacity, cudaStream_t stream);
/// tiled = bf16(rms_norm(o) * sigmoid(gate)); o bf16, gate bf16 [rows, dim].
cudaError_t norm_gate(const void* o, const void* gate, const float* weight, float eps, int rows,
                      int dim, void* tiled, int capacity, cudaStream_t stream);
/// out = bf16(silu(x)), x float32; count % 4 == 0.
cudaError_t silu_bf16(const float* x, std::size_t count, void* out, cudaStream_t stream);
/// x = x * sigmoid(gate), float32; count % 4 == 0.
cudaError_t gate(const float* gate, std::size_t count, float* x, cudaStream_t stream);
/// out = bf16(x) or float32(x); count % 4 == 0.
cudaError_t to_bf16(const float* x, std::size_t count, void* out, cudaStream_t stream);
cudaError_t to_f32(const void* x, std::size_t count, float* out, cudaStream_t stream);
/// out[i] = x[rows[i]] as bf16 or float32; x [*, dim] float32, dim % 4 == 0; out 8-byte aligned.
cudaError_t gather_rows(const float* x, const std::uint32_t* rows, int count, int dim,
                        bool out_is_f32, void* out, cudaStream_t stream);
/// out[i] = table[ids[i]] as float32; table bf16 [*, dim].
cudaError_t embed(const void* table, const std::uint32_t* ids, int rows, int dim, float* out,
                  cudaStream_t stream);
/// Top-k gate: softmax over all experts in float32, the k largest (ties: lower expert), divided by
/// their sum. y [rows, dim], router [experts, dim] float32; experts <= 32, k <= 8.
cudaError_t route(const float* y, int rows, int dim, const float* router, int experts, int k,
                  std::uint16_t* chosen, float* weights, cudaStream_t stream);

}  // namespace fulgur::kernels::cuda
