// The seam between the backend (plain C++) and the vector code, which is compiled once for each
// instruction set. Plain data and function pointers only: nothing here may instantiate an inline
// function in a file built with -mavx…, or the linker could pick that copy for the whole program.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/include/fulgur/kernels/product_order.hpp"

namespace fulgur::kernels::cpu {

inline constexpr std::size_t kPanelColumns = 64;  ///< output features of one weight panel
inline constexpr std::size_t kLineBytes = 64;     ///< of a cache line
inline constexpr std::size_t kVector = 16;        ///< lanes of the logical vector on every machine
inline constexpr std::size_t kBlockTokens = 64;   ///< kLightningBlock and kPageTokens
inline constexpr std::size_t kSplitTokens = 512;  ///< kSoftmaxSplit
/// Floats of one head's decay table: powers 0..64 forward, then reversed (see CpuBackend).
inline constexpr std::size_t kDecayForward = 80;
inline constexpr std::size_t kDecayStride = kDecayForward + 128;

/// How the left operand of a product lies in memory; K is padded to even with zeros.
enum class RowFormat : std::uint8_t {
  bf16,     ///< bf16, for hardware that multiplies bf16 pairs
  rounded,  ///< float32 holding bf16 values
  f32,      ///< float32
};

/// Element type of a packed weight.
enum class PanelType : std::uint8_t { bf16, f32 };

/// out[m, 64] = rows [m, 2 * pairs] · panel. panel: [pairs][vecs][16][2] bf16 or
/// [2 * pairs][vecs][16] float32; only vecs * 16 columns of out are written.
struct ProductTask {
  const std::byte* rows;  ///< the first row; 64-byte aligned, as row_bytes is
  std::size_t row_bytes;
  std::size_t m;
  const void* panel;
  std::size_t pairs;
  std::size_t vecs;
  float* out;
  const std::byte* next_panel;  ///< the panel this thread is likely to need next; any address
};

/// One head over one segment of a sequence.
struct LightningTask {
  const float* qkv;        ///< first token's q of this head; k and v follow at dim and 2 dim
  std::size_t qkv_stride;  ///< floats from token to token
  float* out;              ///< first token's output of this head
  std::size_t out_stride;
  std::size_t dim;
  std::size_t rows;
  std::size_t block_index;  ///< position of the first token within its block
  bool fresh;               ///< the sequence starts here
  const float* decay;       ///< kDecayStride floats
  std::byte* slot;          ///< this head's part of the slot
  float* scratch;           ///< lightning_scratch_floats(dim)
};

/// Query rows (token-major, `group` heads a token) of one KV head against one split of positions.
struct SoftmaxTask {
  const float* q;  ///< [rows, padded dim], rotated and scaled
  std::size_t rows;
  std::size_t group;
  std::size_t dim;
  std::size_t valid;              ///< positions of this split the first token sees, >= 1
  const std::byte* const* pages;  ///< this KV head's part of each page of the split
  float* scores;                  ///< [rows, kSplitTokens]
  float* wide;                    ///< scratch [64, padded dim]
  float* max;                     ///< [rows]
  float* sum;                     ///< [rows]
  float* out;                     ///< [rows, padded dim]
};

struct NormTask {
  const float* x;
  const float* weight;
  const float* gate;  ///< null: no gate
  float eps;
  std::size_t dim;
  float* out;
};

struct KernelTable {
  const char* name;
  RowFormat bf16_rows;   ///< format of left rows for bf16 panels in bf16 mode
  ProductOrder order;    ///< of product_bf16()
  std::size_t row_tile;  ///< rows that a product takes at once; units are cut in multiples of it

  void (*product_bf16)(const ProductTask&);      ///< rows bf16, panel bf16; null if no hardware
  void (*product_f32_bf16)(const ProductTask&);  ///< rows float32, panel bf16
  void (*product_f32_f32)(const ProductTask&);   ///< rows float32, panel float32

  /// count elements from float32 (or bf16) to a padded row.
  void (*pack_row)(const void* x, bool x_is_bf16, std::size_t count, RowFormat format, void* out);
  /// tile [m, 64] -> out rows of `columns`, float32 or bf16, possibly unaligned.
  void (*store_tile)(const float* tile, std::size_t m, std::size_t columns, bool to_bf16,
                     std::byte* out, std::size_t out_stride_bytes);
  /// silu(tile[:, 0:32]) * tile[:, 32:64] -> `columns` elements a row of `format`.
  void (*silu_tile)(const float* tile, std::size_t m, std::size_t columns, RowFormat format,
                    std::byte* out, std::size_t out_stride_bytes);

  void (*norm)(const NormTask&);
  void (*scale_add)(float alpha, const float* x, float beta, const float* y, std::size_t count,
                    float* out);
  void (*to_float)(const std::byte* x, std::size_t count, float* out);  ///< from bf16, unaligned
  void (*to_bf16)(const float* x, std::size_t count, std::byte* out);
  void (*combine)(const float* y, std::size_t hidden, std::size_t k, const float* weights,
                  const std::byte* const* outputs, bool bf16, float alpha, float beta, float* out);
  void (*exp_shifted)(float* x, std::size_t count, float shift);  ///< x = exp(x - shift)

  void (*lightning[2])(const LightningTask&);  ///< [0] float32, [1] bf16 keys and values
  /// Rotates the first 2 * half dims and multiplies by scale (1: exactly x).
  void (*rotate)(const float* x, std::size_t dim, std::size_t half, const float* cosine,
                 const float* sine, float scale, float* out);
  /// Writes a token's rotated key and its value to a KV head's part of a page.
  void (*store_kv[2])(const float* key, const float* value, std::size_t dim, std::size_t token,
                      std::byte* page);
  void (*softmax_split[2])(const SoftmaxTask&);
  /// Merges a split's partial result into the total of one row.
  void (*softmax_merge)(float* max, float* sum, float* out, float part_max, float part_sum,
                        const float* part_out, std::size_t padded_dim);
  /// out[dim] = x[dim] * scale.
  void (*scale)(const float* x, float scale, std::size_t count, float* out);

  /// Probes of the machine (bench/roofline.hpp). The first two return floating-point operations.
  double (*probe_fma)(std::size_t steps, float* sink);
  double (*probe_bf16)(std::size_t steps, float* sink);  ///< as bf16 products run here
  void (*probe_read)(const float* data, std::size_t count, float* sink);
};

constexpr std::size_t padded(std::size_t dim) { return (dim + kVector - 1) / kVector * kVector; }
constexpr std::size_t lightning_scratch_floats(std::size_t dim) {
  return 3 * kBlockTokens * padded(dim) + kBlockTokens * kBlockTokens + 2 * dim * kBlockTokens;
}

const KernelTable& avx2_kernels();
const KernelTable& avx512_kernels();
const KernelTable& avx512bf16_kernels();
const KernelTable& amx_kernels();
}  // namespace fulgur::kernels::cpu
