// Stores of the wide bf16 product through shared memory. Straight from the fragments (store_strip()
// of tiles.cuh) a warp writes pieces of 16 bytes, half a sector each, and the compiler may not load
// the next output row's number before the last store: one load's latency for every eight rows.
// Measured on an H100 (tiles of 128 x 256, a multiplying warp's cycles in the store, tensor cores
// idle): SwiGLU 4,310 -> 2,280, rows of a down product 21,600 -> 4,200 of some 180,000 a tile.
//
// SwiGLU: the tile is one contiguous piece of the tiled operand that the next product reads, so one
// bulk copy sends it while the next tile is multiplied. Rows: 64 features, 128 bytes, of each row
// leave by 16-byte stores, whole lines.
//
// float32 rows keep the plain store: its pieces are whole sectors, and dense products have no row
// numbers to wait for.
#pragma once

#include "kernels/cuda/tiles.cuh"

namespace fulgur::kernels::cuda {

/// What a tile leaves: 256 rows of 64 features of SwiGLU, or of each warpgroup 128 rows of 64.
inline constexpr int kStagingBytes = 32 * 1024;

template <typename S, Store kStore>
inline constexpr bool kIsStaged = S::kMaxN == 256 && kStore != Store::f32_rows;
/// Stores that a thread beside the multiplying ones sends.
template <typename S, Store kStore>
inline constexpr bool kIsSent = kIsStaged<S, kStore>&& kStore == Store::swiglu_tiled;

/// Shared addresses: the bytes, and the barriers of a tile that is all there, and of one that is
/// gone.
struct Staging {
  std::uint32_t data;
  std::uint32_t full;  ///< an arrival of each multiplying warp
  std::uint32_t free;  ///< one arrival
};

/// One thread: sends the tiles of SwiGLU that the multiplying warps leave, whole atoms: of rows
/// that only fill the last atom of a group it sends what was multiplied there, which nothing reads.
template <typename S, typename Walk>
__device__ void send_tiles(const Product& p, const Staging& staging, Walk walk) {
  static_assert(S::kTileRows == 2 * kAtomCols, "a tile is one column of atoms of SwiGLU");
  const std::size_t stride = static_cast<std::size_t>(p.capacity) / kAtomRows * kAtomBytes;
  std::uint32_t tiles = 0;
  typename Walk::Item tile;
  while (walk.next(tile)) {
    if (!is_stored(tile)) continue;
    const int first = (p.offsets != nullptr ? p.offsets[tile.group] : 0) + tile.first;
    std::byte* to = static_cast<std::byte*>(p.out) + tile.row_tile * stride +
                    static_cast<std::size_t>(first) / kAtomRows * kAtomBytes;
    barrier_wait(staging.full, tiles & 1);
    bulk_store(to, staging.data, (tile.rows + kAtomRows - 1) / kAtomRows * kAtomBytes);
    bulk_store_commit();
    bulk_store_wait_read();
    barrier_arrive(staging.free);
    ++tiles;
  }
  bulk_store_wait();
}

/// silu(gate) * up of a warpgroup's strip, for send_tiles(). tiles: how many before this one.
template <int kN>
__device__ __forceinline__ void stage_swiglu(const Tile& tile, const Staging& staging,
                                             std::uint32_t tiles, const float (&acc)[kN / 2]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int row = lane % 8;
  const int chunk = static_cast<int>(threadIdx.x) / 32 - 4;  // a warp holds eight features
  const std::uint32_t to = staging.data + lane / 8 * kAtomBytes + row * 128 + ((chunk ^ row) * 16);
  barrier_wait(staging.free, (tiles & 1) ^ 1);
#pragma unroll
  for (int j = 0; j < kN / 8; j += 4) {
    if (j * 8 >= tile.rows) break;
    std::uint32_t r[4] = {};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (j + i >= kN / 8) continue;
      const float* d = acc + 4 * (j + i);
      r[i] = pack_bf16(silu(d[0]) * d[2], silu(d[1]) * d[3]);
    }
    store_matrices_transposed(to + j * kAtomBytes, r);
  }
  async_proxy_fence();
  __syncwarp();
  if (lane == 0) barrier_arrive(staging.full);
}

/// Eight features of a row, those below p.features. whole: all eight, 16-byte aligned.
__device__ __forceinline__ void store_features(const Product& p, int row, int feature, bool whole,
                                               uint4 v) {
  auto* to = static_cast<__nv_bfloat16*>(p.out) + static_cast<std::size_t>(row) * p.features;
  to += feature;
  if (whole) {
    *reinterpret_cast<uint4*>(to) = v;
    return;
  }
  const std::uint32_t pairs[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (feature + 2 * i < p.features) *reinterpret_cast<std::uint32_t*>(to + 2 * i) = pairs[i];
  }
}

/// bf16 rows of a warpgroup's strip, 128 at a time; each warpgroup uses its half of the staging.
template <int kN>
__device__ __forceinline__ void stage_rows(const Product& p, const Tile& tile,
                                           const Staging& staging, const float (&acc)[kN / 2]) {
  constexpr int kRows = 128;  // in a half of the staging
  constexpr int kStep = 16;   // rows that the warpgroup stores at once, eight threads each
  const int thread = static_cast<int>(threadIdx.x) % 128;
  const int consumer = static_cast<int>(threadIdx.x) / 128 - 1;
  const int lane = thread % 32;
  const std::uint32_t own = staging.data + consumer * (kStagingBytes / 2);
  const int chunk = thread / 32 * 2 + lane / 8 % 2;
  const std::uint32_t to = own + (lane / 16 * 8 + lane % 8) * 128 + ((chunk ^ (lane % 8)) * 16);
  const int first_row = thread / 8;
  const int column = thread % 8;
  const std::uint32_t from = own + first_row * 128 + ((column ^ (first_row % 8)) * 16);
  const int first = (p.offsets != nullptr ? p.offsets[tile.group] : 0) + tile.first;
  const int feature = (tile.row_tile * 2 + consumer) * kStripRows + column * 8;
  const bool whole = p.features % 8 == 0 && reinterpret_cast<std::uintptr_t>(p.out) % 16 == 0;
  const bool with_silu = p.store == Store::silu_bf16_rows;
  const auto value = [&](float sum) { return with_silu ? silu(sum) : sum; };
#pragma unroll
  for (int base = 0; base < kN; base += kRows) {
    if (base >= tile.rows) break;
    int rows[kRows / kStep];  // all at once: before the stores
#pragma unroll
    for (int i = 0; i < kRows / kStep; ++i) {
      const int t = base + i * kStep + first_row;
      rows[i] = -1;
      if (t < tile.rows && feature < p.features) {
        rows[i] = p.out_rows != nullptr ? p.out_rows[first + t] : first + t;
      }
    }
    warpgroup_sync(consumer);  // the rows before these have left
#pragma unroll
    for (int t = base; t < base + kRows && t < kN; t += 16) {
      const float* d = acc + t / 2;
      const std::uint32_t r[4] = {
          pack_bf16(value(d[0]), value(d[1])), pack_bf16(value(d[2]), value(d[3])),
          pack_bf16(value(d[4]), value(d[5])), pack_bf16(value(d[6]), value(d[7]))};
      store_matrices_transposed(to + (t - base) * 128, r);
    }
    warpgroup_sync(consumer);
#pragma unroll
    for (int i = 0; i < kRows / kStep; ++i) {
      if (rows[i] < 0) continue;
      store_features(p, rows[i], feature, whole, load_shared16(from + i * kStep * 128));
    }
  }
}

}  // namespace fulgur::kernels::cuda
