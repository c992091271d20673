// What the grouped products share (product.cu: bf16, product_fp8.cu: e4m3): shapes of tiles, their
// order, the ring of shared-memory stages and its producer, and the stores that need no exchange
// between threads.
#pragma once

#include "kernels/cuda/launch.hpp"
#include "kernels/cuda/layout.hpp"
#include "kernels/cuda/ptx.cuh"

namespace fulgur::kernels::cuda {

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

/// kSub: strips of a multiplying warpgroup, of which there are kConsumers. kCluster: blocks that
/// share the activations of a tile. kScaled: e4m3 operands, whose scales lie behind the stages: of
/// a stage 16 bytes of the weight's (ScaleQuad of layout.hpp), then kMaxN float32 of the rows'.
template <int kSub_, int kMaxN_, int kCluster_, bool kScaled_ = false, int kConsumers_ = 2>
struct Shape {
  static constexpr int kSub = kSub_;
  static constexpr int kMaxN = kMaxN_;
  static constexpr int kCluster = kCluster_;
  static constexpr bool kScaled = kScaled_;
  static constexpr int kConsumers = kConsumers_;
  static constexpr int kThreads = 128 * (1 + kConsumers);
  static constexpr int kConsumerWarps = 4 * kConsumers;
  static constexpr int kBlockCols = kScaled ? kAtomCols8 : kAtomCols;  ///< columns of a stage
  static constexpr int kStrips = kConsumers * kSub;
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
///
/// In an order of count_tiles() the groups of several tiles a row tile come first, and where they
/// are fewer than the other tiles, some blocks walk them and the rest of the blocks the others. For
/// the first kind waits for the tensor cores and for L2 (a weight goes to several
/// multiprocessors), the second for DRAM: one after the other each leaves idle what the other
/// needs. A tile of the first kind takes up to 3 / 2 as long as one of the second with DRAM to
/// spare, hence the shares; a class that ends early leaves the rest its bandwidth.
template <typename S>
class TileWalk {
 public:
  using Item = Tile;

  __device__ TileWalk(const int* starts, const int* counts, int groups, int row_tiles,
                      const std::uint8_t* order = nullptr)
      : starts_(starts),
        counts_(counts),
        order_(order),
        row_tiles_(row_tiles),
        rank_(S::kCluster == 1 ? 0 : static_cast<int>(cluster_rank())),
        step_(static_cast<int>(gridDim.x) / S::kCluster),
        end_(starts[groups]),
        next_(static_cast<int>(blockIdx.x) / S::kCluster) {
    if (order == nullptr) return;
    const int several = starts[groups + 1];
    const int others = end_ - several;
    if (several == 0 || several >= others || step_ < 2) return;
    const int weighed = 3 * several + 2 * others;
    const int theirs = (step_ * 3 * several + weighed - 1) / weighed;
    if (next_ < theirs) {
      step_ = theirs;
      end_ = several;
    } else {
      next_ += several - theirs;
      step_ -= theirs;
    }
  }

  __device__ bool next(Tile& tile) {
    const int index = next_;
    next_ += step_;
    if (index >= end_) return false;
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
    tile.group = order_ != nullptr ? order_[group_] : group_;
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
  const std::uint8_t* order_;
  int row_tiles_;
  int rank_;
  int step_;
  int end_;
  int next_;
  int group_ = 0;
};

/// Shapes whose walk has an order of groups: those of calls that wait for DRAM, but for few rows,
/// where no group has several tiles.
template <typename S>
inline constexpr bool kOrdered = S::kCluster == 1 && S::kMaxN == 128;

/// counts[g] and starts[g] = tiles before group g, starts[groups] = all tiles. One warp. With
/// `order` [groups], g counts groups in that order: first those of several tiles a row tile, before
/// whose end lie starts[groups + 1] tiles.
inline __device__ void count_tiles(const Product& p, int row_tiles, int n_max, int* counts,
                                   int* starts, std::uint8_t* order = nullptr) {
  const int lane = static_cast<int>(threadIdx.x);
  int before = 0;
  int placed = 0;
  for (int part = order != nullptr ? 0 : 1; part < 2; ++part) {
    for (int base = 0; base < p.groups; base += 32) {
      const int g = base + lane;
      const int count = g >= p.groups ? 0 : p.counts != nullptr ? load_fresh(p.counts + g) : p.rows;
      const bool is_several = count > n_max;
      const bool mine = g < p.groups && (order == nullptr || is_several == (part == 0));
      const int tiles = mine ? (count + n_max - 1) / n_max * row_tiles : 0;
      int sum = tiles;
      for (int step = 1; step < 32; step *= 2) {
        const int other = __shfl_up_sync(0xffffffffU, sum, step);
        if (lane >= step) sum += other;
      }
      const unsigned members = __ballot_sync(0xffffffffU, mine);
      if (mine) {
        const int at = placed + __popc(members & ((1U << lane) - 1));
        counts[at] = count;
        starts[at] = before + sum - tiles;
        if (order != nullptr) order[at] = static_cast<std::uint8_t>(g);
      }
      placed += __popc(members);
      before += __shfl_sync(0xffffffffU, sum, 31);
    }
    if (part == 0 && lane == 0) starts[p.groups + 1] = before;
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
__device__ __forceinline__ const void* weight_of(const Product& p, const Tile& tile) {
  return p.weights != nullptr ? load_fresh(p.weights + tile.group) : p.weight;
}
template <typename S>
__device__ __forceinline__ TileScales scales_of(const Product& p, const Tile& tile, int first) {
  if constexpr (!S::kScaled) return {};
  const std::size_t cols = p.cols;
  const auto* weight = static_cast<const std::byte*>(weight_of(p, tile));
  const auto* x = static_cast<const std::byte*>(p.x);
  const int quad_row = tile.row_tile * S::kTileRows / kQuadRows;
  return {weight + p.weight_rows * cols + quad_row * (cols / kAtomCols8) * kScaleQuadBytes,
          reinterpret_cast<const float*>(x + p.capacity * cols) + first};
}

/// Where a tile's operands lie.
template <typename S>
struct Operands {
  const std::byte* weight;
  const std::byte* x;
  std::uint32_t x_bytes;  ///< of a stage
  TileScales scales;
};
/// What L2 is told of pieces that nobody, or somebody, reads again.
struct Policies {
  std::uint64_t once;
  std::uint64_t again;
};
template <typename S>
__device__ __forceinline__ Operands<S> operands_of(const Product& p, const Tile& tile) {
  const std::size_t strip_bytes = static_cast<std::size_t>(p.cols / S::kBlockCols) * kStripBytes;
  const int first = (p.offsets != nullptr ? load_fresh(p.offsets + tile.group) : 0) + tile.first;
  return {
      static_cast<const std::byte*>(weight_of(p, tile)) + tile.row_tile * S::kStrips * strip_bytes,
      static_cast<const std::byte*>(p.x) + static_cast<std::size_t>(first) / kAtomRows * kAtomBytes,
      static_cast<std::uint32_t>((tile.rows + 15) / 16 * 16 * 128), scales_of<S>(p, tile, first)};
}

/// Announces all bytes of a stage and fetches the weight's part.
template <typename S>
__device__ __forceinline__ void fetch_weight(const Product& p, const Ring& ring,
                                             const Operands<S>& from, int kb, std::uint32_t stage,
                                             const Policies& policies, bool alone) {
  const int k_blocks = p.cols / S::kBlockCols;
  const std::uint32_t full = ring.full + stage * 8;
  const std::uint32_t scale_bytes = S::kScaled ? kScaleQuadBytes + from.x_bytes / 32 : 0;
  barrier_expect(full, S::kWeightBytes + from.x_bytes + scale_bytes);
#pragma unroll
  for (int s = 0; s < S::kStrips; ++s) {
    bulk_copy(ring.data + stage * S::kStageBytes + s * kStripBytes,
              from.weight + (static_cast<std::size_t>(s) * k_blocks + kb) * kStripBytes,
              kStripBytes, full, alone ? policies.once : policies.again);
  }
  if constexpr (S::kScaled) {
    bulk_copy(stage_scales<S>(ring, stage), from.scales.weight + kb * kScaleQuadBytes,
              kScaleQuadBytes, full, policies.again);
  }
}

/// Fetches the activations' part of a stage.
template <typename S>
__device__ __forceinline__ void fetch_rows(const Product& p, const Ring& ring,
                                           const Operands<S>& from, int kb, std::uint32_t stage,
                                           std::uint64_t policy) {
  const std::size_t x_stride = static_cast<std::size_t>(p.capacity) / kAtomRows * kAtomBytes;
  const std::uint32_t full = ring.full + stage * 8;
  const std::uint32_t to = ring.data + stage * S::kStageBytes + S::kWeightBytes;
  if constexpr (S::kScaled) {
    bulk_copy(stage_scales<S>(ring, stage) + kScaleQuadBytes,
              from.scales.rows + static_cast<std::size_t>(kb) * p.capacity, from.x_bytes / 32, full,
              policy);
  }
  if constexpr (S::kCluster == 1) {
    bulk_copy(to, from.x + kb * x_stride, from.x_bytes, full, policy);
  } else {
    const std::uint32_t part = from.x_bytes / S::kCluster;
    const std::uint32_t at = cluster_rank() * part;
    bulk_copy_multicast(to + at, from.x + kb * x_stride + at, part, full, (1 << S::kCluster) - 1,
                        policy);
  }
}

/// Fetches the first tile's weights, as many stages as the ring holds, and returns how many.
template <typename S, typename Walk>
__device__ __forceinline__ int fetch_ahead(const Product& p, const Ring& ring, Walk walk,
                                           const Policies& policies) {
  typename Walk::Item tile;
  if (!walk.next(tile)) return 0;
  const Operands<S> from = operands_of<S>(p, tile);
  const int first = first_stage(tile);
  const int stages = min(end_stage(tile, p.cols / S::kBlockCols) - first, S::kStages);
  for (int n = 0; n < stages; ++n) {
    fetch_weight<S>(p, ring, from, first + n, n, policies, tile.alone);
  }
  return stages;
}

/// One thread: fills the ring. With p.early the first round of weights is on its way before the
/// kernel that writes the activations has ended; not of wide tiles, which take their time over the
/// tensor cores and have no registers to spare.
template <typename S, typename Walk>
__device__ void produce(const Product& p, const Ring& ring, Walk walk) {
  const Policies policies{evict_first_policy(), evict_normal_policy()};
  const int k_blocks = p.cols / S::kBlockCols;
  int ahead = 0;  // stages whose weights are under way
  if constexpr (S::kMaxN < 256) {
    if (p.early) ahead = fetch_ahead<S>(p, ring, walk, policies);
  }
  wait_for_previous();
  std::uint32_t step = 0;
  typename Walk::Item tile;
  while (walk.next(tile)) {
    const Operands<S> from = operands_of<S>(p, tile);
    for (int kb = first_stage(tile); kb < end_stage(tile, k_blocks); ++kb, ++step) {
      const std::uint32_t stage = step % S::kStages;
      if (static_cast<int>(step) >= ahead) {
        barrier_wait(ring.empty + stage * 8, (step / S::kStages & 1) ^ 1);
        fetch_weight<S>(p, ring, from, kb, stage, policies, tile.alone);
      }
      fetch_rows<S>(p, ring, from, kb, stage, policies.again);
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
