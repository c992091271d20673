// What the grouped products share (product.cu: bf16, product_fp8.cu: e4m3): shapes of tiles, their
// order, the ring of shared-memory stages and its producer, and the stores that need no exchange
// between threads.
#pragma once

#include "kernels/cuda/launch.hpp"
#include "kernels/cuda/layout.hpp"
#include "kernels/cuda/ptx.cuh"

namespace fulgur::kernels::cuda {

inline constexpr int kThreads = 384;
inline constexpr int kConsumerWarps = 8;
inline constexpr int kNarrowGroup = 8;  ///< tiles along N that share a pass over the weights

struct Tile {
  int group;
  int row_tile;
  int first;   ///< first row of the group
  int rows;    ///< 1 to kMaxN
  bool alone;  ///< no other tile reads these weights
};
/// With free sums (shares.hpp) a block may have some of a tile's stages only: [begin, end).
struct Piece : Tile {
  int begin;
  int end;
};

// Of a tile or a piece of one; `stages` are a tile's.
__device__ __forceinline__ int first_stage(const Tile&) { return 0; }
__device__ __forceinline__ int first_stage(const Piece& piece) { return piece.begin; }
__device__ __forceinline__ int end_stage(const Tile&, int stages) { return stages; }
__device__ __forceinline__ int end_stage(const Piece& piece, int) { return piece.end; }
/// Whether who has it stores the tile.
__device__ __forceinline__ bool is_stored(const Tile&) { return true; }
__device__ __forceinline__ bool is_stored(const Piece& piece) { return piece.begin == 0; }

/// kCluster: blocks that share the activations of a tile. kScaled: e4m3 operands, whose scales lie
/// behind the stages: of a stage 16 bytes of the weight's (ScaleQuad of layout.hpp), then kMaxN
/// float32 of the rows'.
template <int kSub_, int kMaxN_, int kCluster_, bool kScaled_ = false>
struct Shape {
  static constexpr int kSub = kSub_;
  static constexpr int kMaxN = kMaxN_;
  static constexpr int kCluster = kCluster_;
  static constexpr bool kScaled = kScaled_;
  static constexpr int kBlockCols = kScaled ? kAtomCols8 : kAtomCols;  ///< columns of a stage
  static constexpr int kStrips = 2 * kSub;
  static constexpr int kTileRows = kStrips * kStripRows;
  static constexpr int kWeightBytes = kStrips * kStripBytes;
  static constexpr int kStageBytes = kWeightBytes + kMaxN * 128;
  static constexpr int kScaleBytes = kScaled ? kScaleQuadBytes + kMaxN * 4 : 0;
  static constexpr int kRingBytes = (kScaled ? 208 : 192) * 1024;
  static constexpr int kStages = kRingBytes / (kStageBytes + kScaleBytes);
  static constexpr int kSharedBytes = kStages * (kStageBytes + kScaleBytes) + 1024;
};

/// The tile order, computed by every warp in the same way from the counts in shared memory. A row
/// tile is kCluster tiles high: the blocks of a cluster walk in step, each with its own rank.
///
/// The tiles of a row tile differ by 16 rows of the group at most, and their order turns from row
/// tile to row tile: clusters are as many as 66, so that without it those of a group with two,
/// three or six tiles a row would always meet the same one, and end when the widest does. (Experts
/// of 1024 rows on average, bf16: gate and up 3 to 4 % fewer cycles.)
template <typename S>
class TileWalk {
 public:
  using Item = Tile;

  __device__ TileWalk(const int* starts, const int* counts, int groups, int row_tiles)
      : starts_(starts),
        counts_(counts),
        groups_(groups),
        row_tiles_(row_tiles),
        rank_(S::kCluster == 1 ? 0 : static_cast<int>(cluster_rank())) {}

  __device__ bool next(Tile& tile) {
    const int index = next_;
    next_ += static_cast<int>(gridDim.x) / S::kCluster;
    if (index >= starts_[groups_]) return false;
    while (index >= starts_[group_ + 1]) ++group_;
    const int count = counts_[group_];
    const int n_tiles = (count + S::kMaxN - 1) / S::kMaxN;
    const int local = index - starts_[group_];
    const int pass = local / (kNarrowGroup * row_tiles_);
    const int in_pass = local - pass * kNarrowGroup * row_tiles_;
    const int width = min(kNarrowGroup, n_tiles - pass * kNarrowGroup);
    const int row = in_pass / width;
    const int n = pass * kNarrowGroup + (in_pass + row) % width;
    const int units = (count + 15) / 16;
    const int least = units / n_tiles;
    const int wider = units % n_tiles;  // tiles with one unit more
    tile.group = group_;
    tile.row_tile = row * S::kCluster + rank_;
    tile.first = 16 * (n * least + min(n, wider));
    tile.rows = min(16 * (least + (n < wider ? 1 : 0)), count - tile.first);
    tile.alone = n_tiles == 1;
    return true;
  }

  /// Number of the tile that next() gives; go_to() another, no lower one than has been.
  __device__ int upcoming() const { return next_; }
  __device__ void go_to(int index) { next_ = index; }

 private:
  const int* starts_;
  const int* counts_;
  int groups_;
  int row_tiles_;
  int rank_;
  int group_ = 0;
  int next_ = static_cast<int>(blockIdx.x) / S::kCluster;
};

/// counts[g] and starts[g] = tiles before group g, starts[groups] = all tiles. One warp.
inline __device__ void count_tiles(const Product& p, int row_tiles, int n_max, int* counts,
                                   int* starts) {
  const int lane = static_cast<int>(threadIdx.x);
  int before = 0;
  for (int base = 0; base < p.groups; base += 32) {
    const int g = base + lane;
    const int count = g >= p.groups ? 0 : p.counts != nullptr ? p.counts[g] : p.rows;
    const int tiles = (count + n_max - 1) / n_max * row_tiles;
    int sum = tiles;
    for (int step = 1; step < 32; step *= 2) {
      const int other = __shfl_up_sync(0xffffffffU, sum, step);
      if (lane >= step) sum += other;
    }
    if (g < p.groups) {
      counts[g] = count;
      starts[g] = before + sum - tiles;
    }
    before += __shfl_sync(0xffffffffU, sum, 31);
  }
  if (lane == 0) starts[p.groups] = before;
}

struct Ring {
  std::uint32_t data;  ///< shared address of stage 0
  std::uint32_t full;  ///< shared address of the first of kStages barriers
  std::uint32_t empty;
};

/// Shared address of a stage's scales.
template <typename S>
__device__ __forceinline__ std::uint32_t stage_scales(const Ring& ring, std::uint32_t stage) {
  return ring.data + S::kStages * S::kStageBytes + stage * S::kScaleBytes;
}

/// Where a tile's scales begin (layout.hpp): those of its weight rows, a quad for each 128 columns,
/// and those of its activation rows, `capacity` apart.
struct TileScales {
  const std::byte* weight;
  const float* rows;
};
template <typename S>
__device__ __forceinline__ TileScales scales_of(const Product& p, const Tile& tile, int first) {
  if constexpr (!S::kScaled) return {};
  const std::size_t cols = p.cols;
  const auto* weight =
      static_cast<const std::byte*>(p.weights != nullptr ? p.weights[tile.group] : p.weight);
  const auto* x = static_cast<const std::byte*>(p.x);
  const int quad_row = tile.row_tile * S::kTileRows / kQuadRows;
  return {weight + p.weight_rows * cols + quad_row * (cols / kAtomCols8) * kScaleQuadBytes,
          reinterpret_cast<const float*>(x + p.capacity * cols) + first};
}

template <typename S, typename Walk>
__device__ void produce(const Product& p, const Ring& ring, Walk walk) {
  const std::uint64_t once = evict_first_policy();
  const std::uint64_t again = evict_normal_policy();
  const int k_blocks = p.cols / S::kBlockCols;
  const std::size_t x_stride = static_cast<std::size_t>(p.capacity) / kAtomRows * kAtomBytes;
  std::uint32_t step = 0;
  typename Walk::Item tile;
  while (walk.next(tile)) {
    const auto* weight =
        static_cast<const std::byte*>(p.weights != nullptr ? p.weights[tile.group] : p.weight);
    weight += static_cast<std::size_t>(tile.row_tile) * S::kStrips * k_blocks * kStripBytes;
    const int offset = p.offsets != nullptr ? p.offsets[tile.group] : 0;
    const auto* x = static_cast<const std::byte*>(p.x) +
                    static_cast<std::size_t>(offset + tile.first) / kAtomRows * kAtomBytes;
    const std::uint32_t x_bytes = (tile.rows + 15) / 16 * 16 * 128;
    [[maybe_unused]] const auto scales = scales_of<S>(p, tile, offset + tile.first);
    const std::uint32_t scale_bytes = S::kScaled ? kScaleQuadBytes + x_bytes / 32 : 0;
    for (int kb = first_stage(tile); kb < end_stage(tile, k_blocks); ++kb, ++step) {
      const std::uint32_t stage = step % S::kStages;
      const std::uint32_t round = step / S::kStages;
      barrier_wait(ring.empty + stage * 8, (round & 1) ^ 1);
      const std::uint32_t full = ring.full + stage * 8;
      const std::uint32_t data = ring.data + stage * S::kStageBytes;
      barrier_expect(full, S::kWeightBytes + x_bytes + scale_bytes);
#pragma unroll
      for (int s = 0; s < S::kStrips; ++s) {
        bulk_copy(data + s * kStripBytes,
                  weight + (static_cast<std::size_t>(s) * k_blocks + kb) * kStripBytes, kStripBytes,
                  full, tile.alone ? once : again);
      }
      if constexpr (S::kScaled) {
        bulk_copy(stage_scales<S>(ring, stage), scales.weight + kb * kScaleQuadBytes,
                  kScaleQuadBytes, full, again);
      }
      if constexpr (S::kScaled) {
        bulk_copy(stage_scales<S>(ring, stage) + kScaleQuadBytes,
                  scales.rows + static_cast<std::size_t>(kb) * p.capacity, x_bytes / 32, full,
                  again);
      }
      if constexpr (S::kCluster == 1) {
        bulk_copy(data + S::kWeightBytes, x + kb * x_stride, x_bytes, full, again);
      } else {
        const std::uint32_t part = x_bytes / S::kCluster;
        const std::uint32_t at = cluster_rank() * part;
        bulk_copy_multicast(data + S::kWeightBytes + at, x + kb * x_stride + at, part, full,
                            (1 << S::kCluster) - 1, again);
      }
    }
  }
}

/// Rows that the fragment of this thread is stored to, and the store itself.
template <Store kStore, int kN>
__device__ void store_strip(const Product& p, const Tile& tile, int strip,
                            const float (&acc)[kN / 2]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32 % 4;
  const int quad = lane / 4;
  const int pair = lane % 4 * 2;
  const int offset = p.offsets != nullptr ? p.offsets[tile.group] : 0;
  const int first = offset + tile.first;
  // Of the tiled output: rows 8 j + quad are j atoms apart.
  const int f = strip * 32 + warp * 8 + pair;
  [[maybe_unused]] std::byte* inner_row =
      static_cast<std::byte*>(p.out) + tiled_byte(first + quad, f, p.capacity);
  // Numbers of the next rows: the compiler may not load them before the last rows' stores.
  constexpr int kAhead = 4;
  [[maybe_unused]] int rows[kAhead];
#pragma unroll
  for (int j = 0; j < kN / 8; ++j) {
    if (j * 8 >= tile.rows) break;
    const float* d = acc + 4 * j;
    if constexpr (kStore == Store::swiglu_tiled) {
      const std::uint32_t inner = pack_bf16(silu(d[0]) * d[2], silu(d[1]) * d[3]);
      const std::uint32_t turned = transpose_matrix(inner);
      if (j * 8 + quad < tile.rows) {
        *reinterpret_cast<std::uint32_t*>(inner_row + j * kAtomBytes) = turned;
      }
    } else if constexpr (kStore == Store::f32_rows) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int t = j * 8 + pair + i % 2;
        const int feature = strip * 64 + warp * 16 + quad + i / 2 * 8;
        if (t >= tile.rows || feature >= p.features) continue;
        const std::size_t row = p.out_rows != nullptr ? p.out_rows[first + t] : first + t;
        static_cast<float*>(p.out)[row * p.features + feature] = d[i];
      }
    } else {
      const bool with_silu = p.store == Store::silu_bf16_rows;
      const auto value = [&](int i) { return with_silu ? silu(d[i]) : d[i]; };
      const std::uint32_t top = transpose_matrix(pack_bf16(value(0), value(1)));
      const std::uint32_t bottom = transpose_matrix(pack_bf16(value(2), value(3)));
      if (j % kAhead == 0) {
#pragma unroll
        for (int i = 0; i < kAhead; ++i) {
          const int t = (j + i) * 8 + quad;
          if (t >= tile.rows) continue;
          rows[i] = p.out_rows != nullptr ? p.out_rows[first + t] : first + t;
        }
      }
      const int feature = strip * 64 + warp * 16 + pair;
      if (j * 8 + quad < tile.rows) {
        auto* to = static_cast<__nv_bfloat16*>(p.out) +
                   static_cast<std::size_t>(rows[j % kAhead]) * p.features + feature;
        if (feature < p.features) *reinterpret_cast<std::uint32_t*>(to) = top;
        if (feature + 8 < p.features) *reinterpret_cast<std::uint32_t*>(to + 8) = bottom;
      }
    }
  }
}

/// Tells the producers that fill this stage that the warp has read it.
template <typename S>
__device__ __forceinline__ void release(const Ring& ring, std::uint32_t step) {
  if (threadIdx.x % 32 != 0) return;
  const std::uint32_t barrier = ring.empty + step % S::kStages * 8;
  if constexpr (S::kCluster == 1) {
    barrier_arrive(barrier);
  } else {
#pragma unroll
    for (int rank = 0; rank < S::kCluster; ++rank) barrier_arrive_at(barrier, rank);
  }
}

}  // namespace fulgur::kernels::cuda
