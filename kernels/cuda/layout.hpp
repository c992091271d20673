// Memory layouts of the CUDA backend, as index functions shared by host, device and tests. Every
// bulk copy of a kernel is one contiguous piece of these layouts, already swizzled the way shared
// memory wants it, so that no tensor map is needed and DRAM is read in long runs.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__CUDACC__)
#define FULGUR_HOST_DEVICE __host__ __device__ __forceinline__
#else
#define FULGUR_HOST_DEVICE inline
#endif

namespace fulgur::kernels::cuda {

// --- Matrix operands -------------------------------------------------------------------------
// An atom is 8 rows x 64 columns of bf16, 1 KiB: row r at byte 128 r, its 16-byte chunk c at chunk
// position c ^ r (the 128-byte swizzle of wgmma).

inline constexpr int kAtomRows = 8;
inline constexpr int kAtomCols = 64;
inline constexpr int kAtomBytes = 1024;
/// Rows of a packed weight strip: one wgmma height.
inline constexpr int kStripRows = 64;
inline constexpr int kStripBytes = kStripRows * kAtomCols * 2;

/// Byte of element (row, col) inside its atom.
FULGUR_HOST_DEVICE std::uint32_t atom_byte(std::uint32_t row, std::uint32_t col) {
  return (row % 8) * 128 + (((col % 64) / 8) ^ (row % 8)) * 16 + (col % 8) * 2;
}

/// Left operand ("tiled rows"): [cols / 64][capacity / 8] atoms; capacity is a multiple of 8.
FULGUR_HOST_DEVICE std::size_t tiled_byte(std::size_t row, std::size_t col, std::size_t capacity) {
  return ((col / 64) * (capacity / 8) + row / 8) * kAtomBytes +
         atom_byte(static_cast<std::uint32_t>(row % 8), static_cast<std::uint32_t>(col % 64));
}

/// Weight [rows, cols], rows a multiple of 128, cols a multiple of 64: [rows / 64][cols / 64]
/// strips of 8 atoms each.
FULGUR_HOST_DEVICE std::size_t packed_byte(std::size_t row, std::size_t col, std::size_t cols) {
  return ((row / 64) * (cols / 64) + col / 64) * kStripBytes + (row % 64) / 8 * kAtomBytes +
         atom_byte(static_cast<std::uint32_t>(row % 8), static_cast<std::uint32_t>(col % 64));
}

/// Row of gate feature f in the stacked gate + up matrix: 8 gate rows, then the 8 up rows of the
/// same features, so that one thread's accumulators hold both factors of SwiGLU. Up: 8 more.
FULGUR_HOST_DEVICE std::size_t gate_row(std::size_t f) { return f / 8 * 16 + f % 8; }

// --- e4m3 operands ---------------------------------------------------------------------------
// The same atoms and strips with one byte an element, so 128 columns: a stage is one block of the
// scales. Weights have a float32 scale for each 128 x 128 block, rows one for each 128 columns
// (common/base/e4m3.hpp says which). Scales follow the codes in the same allocation.

inline constexpr int kAtomCols8 = 128;
/// Packed rows that share a quad of scales: those of the first and of the last 128 rows, and in
/// each of the first and of the last eight of sixteen rows (gate and up; in a plain matrix equal).
inline constexpr int kQuadRows = 256;
inline constexpr int kScaleQuadBytes = 16;

/// Byte of element (row, col) inside its atom.
FULGUR_HOST_DEVICE std::uint32_t atom8_byte(std::uint32_t row, std::uint32_t col) {
  return (row % 8) * 128 + (((col % 128) / 16) ^ (row % 8)) * 16 + col % 16;
}
/// Left operand: [cols / 128][capacity / 8] atoms, then scales [cols / 128][capacity].
FULGUR_HOST_DEVICE std::size_t tiled8_byte(std::size_t row, std::size_t col, std::size_t capacity) {
  return ((col / 128) * (capacity / 8) + row / 8) * kAtomBytes +
         atom8_byte(static_cast<std::uint32_t>(row % 8), static_cast<std::uint32_t>(col % 128));
}
FULGUR_HOST_DEVICE std::size_t tiled8_scale_byte(std::size_t row, std::size_t block,
                                                 std::size_t cols, std::size_t capacity) {
  return capacity * cols + (block * capacity + row) * 4;
}
FULGUR_HOST_DEVICE std::size_t tiled8_bytes(std::size_t capacity, std::size_t cols) {
  return capacity * cols + capacity * (cols / 128) * 4;
}
/// Weight [rows, cols], rows a multiple of 256, cols of 128: [rows / 64][cols / 128] strips of 8
/// atoms each, then quads of scales [rows / 256][cols / 128].
FULGUR_HOST_DEVICE std::size_t packed8_byte(std::size_t row, std::size_t col, std::size_t cols) {
  return ((row / 64) * (cols / 128) + col / 128) * kStripBytes + (row % 64) / 8 * kAtomBytes +
         atom8_byte(static_cast<std::uint32_t>(row % 8), static_cast<std::uint32_t>(col % 128));
}
/// Scale of element (row, col) of a packed weight.
FULGUR_HOST_DEVICE std::size_t packed8_scale_byte(std::size_t row, std::size_t col,
                                                  std::size_t rows, std::size_t cols) {
  return rows * cols + ((row / 256) * (cols / 128) + col / 128) * kScaleQuadBytes +
         (row % 256 / 128 * 2 + row % 16 / 8) * 4;
}
FULGUR_HOST_DEVICE std::size_t packed8_bytes(std::size_t rows, std::size_t cols) {
  return rows * cols + rows / kQuadRows * (cols / 128) * kScaleQuadBytes;
}
/// Row of gate feature f in the stacked gate + up matrix; up: 8 more. 256 rows hold 128 features,
/// one block of the inner activations' scales, so that a tile can quantise what it stores. The
/// strips of a warpgroup (64 features) hold the even and the odd ones, so that one thread has two
/// neighbours, 16 bits.
FULGUR_HOST_DEVICE std::size_t gate8_row(std::size_t f) {
  const std::size_t in_half = f % 64;
  return f / 128 * 256 + (f % 128 / 64 * 2 + f % 2) * 64 + in_half / 16 * 16 + in_half % 16 / 2;
}

// --- Lightning slot: one sequence, one layer --------------------------------------------------
// Per head: state float32, open keys bf16, open values bf16.

inline constexpr int kHeadDim = 128;
inline constexpr int kBlock = 64;  ///< equals kLightningBlock and kPageTokens
inline constexpr std::size_t kStateBytes = kHeadDim * kHeadDim * 4;
inline constexpr std::size_t kOpenBytes = kBlock * kHeadDim * 2;
inline constexpr std::size_t kHeadSlotBytes = kStateBytes + 2 * kOpenBytes;

/// State element (key d, value e), in the order of the transposed accumulators of mma m16n8k16:
/// [e / 16][d / 8][lane][4], so that a warp reads 512 contiguous bytes into its own fragments.
FULGUR_HOST_DEVICE std::size_t state_byte(std::size_t d, std::size_t e) {
  const std::size_t lane = (e % 8) * 4 + (d % 8) / 2;
  return ((e / 16 * 16 + d / 8) * 32 + lane) * 16 + ((e % 16) / 8 * 2 + d % 2) * 4;
}
/// 16-byte chunk c (8 dims) of row j of 256-byte rows (q and keys of a block): swizzled so that
/// ldmatrix reads 8 rows without bank conflicts.
FULGUR_HOST_DEVICE std::uint32_t row_chunk_byte(std::uint32_t j, std::uint32_t c) {
  return j * 256 + (c ^ (j & 7)) * 16;
}
/// 16-byte chunk c (0..15) of token j in the keys or the values of a softmax page: the row's two
/// halves lie apart, each [64 tokens][128 bytes] in wgmma's 128-byte swizzle, so that prefill can
/// multiply by a page as it came; ldmatrix of decode meets no bank twice either.
FULGUR_HOST_DEVICE std::uint32_t page_chunk_byte(std::uint32_t j, std::uint32_t c) {
  return c / 8 * (kBlock * 128) + j * 128 + ((c ^ j) & 7) * 16;
}
/// 16-byte chunk h (0, 1) of token j in a value tile: [64 tokens][16 values of one e / 16].
FULGUR_HOST_DEVICE std::uint32_t value_chunk_byte(std::uint32_t j, std::uint32_t h) {
  return j * 32 + (h ^ ((j >> 2) & 1)) * 16;
}
inline constexpr std::size_t kValueTileBytes = kBlock * 32;

}  // namespace fulgur::kernels::cuda
