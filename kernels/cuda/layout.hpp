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
/// 16-byte chunk c (8 dims) of row j of 256-byte rows (keys of a block, q, keys and values of a
/// page): swizzled so that ldmatrix reads 8 rows without bank conflicts.
FULGUR_HOST_DEVICE std::uint32_t row_chunk_byte(std::uint32_t j, std::uint32_t c) {
  return j * 256 + (c ^ (j & 7)) * 16;
}
/// 16-byte chunk h (0, 1) of token j in a value tile: [64 tokens][16 values of one e / 16].
FULGUR_HOST_DEVICE std::uint32_t value_chunk_byte(std::uint32_t j, std::uint32_t h) {
  return j * 32 + (h ^ ((j >> 2) & 1)) * 16;
}
inline constexpr std::size_t kValueTileBytes = kBlock * 32;

}  // namespace fulgur::kernels::cuda
