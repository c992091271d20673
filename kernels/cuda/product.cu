// Grouped matrix product on Hopper: out = x · weightᵀ for groups of rows (experts), counts on the
// device. Dense layers are the case of one group.
//
// What and why. With few rows a group the product is a stream of weights: 340 MB an expert, read
// once. So the weight is the tall operand (M of wgmma), the rows are N, and the tile is
// kTileRows weight rows x up to kMaxN activation rows x the whole of K. Gate and up rows are
// interleaved by eights (layout.hpp): both factors of SwiGLU meet in one thread's registers and the
// inner activations leave as the tiled operand of the down product. The same code with wide N is
// the prefill product.
//
// Exact: one tile owns an output element and adds its products in K order, 16 at a time, in one
// accumulator. No split of K: rows, company and tile shape do not change a bit.
//
// Tiling. 3 warpgroups: one thread of the first feeds a ring of stages of 64 columns by contiguous
// bulk copies (weights and activations lie in memory as shared memory wants them), two multiply,
// kSub strips of 64 weight rows each. Persistent grid; tiles of a group run neighbours in N first,
// so that weights re-read for another N come from L2.
//
// Traffic. Weights once from DRAM; activations kMaxN / (128 kSub) of that from L2. Wide tiles run
// in clusters of two blocks with neighbouring weight rows: each fetches half of the common
// activations for both, or L2 would be the limit.
#include <cuda_runtime.h>

#include "kernels/cuda/device.hpp"
#include "kernels/cuda/launch.hpp"
#include "kernels/cuda/layout.hpp"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/wgmma.cuh"

namespace fulgur::kernels::cuda {
namespace {

constexpr int kThreads = 384;
constexpr int kConsumerWarps = 8;
constexpr int kNarrowGroup = 8;  ///< tiles along N that share a pass over the weights

struct Tile {
  int group;
  int row_tile;
  int first;   ///< first row of the group
  int rows;    ///< at most kMaxN
  bool alone;  ///< no other tile reads these weights
};

/// kCluster: blocks that share the activations of a tile.
template <int kSub_, int kMaxN_, int kCluster_>
struct Shape {
  static constexpr int kSub = kSub_;
  static constexpr int kMaxN = kMaxN_;
  static constexpr int kCluster = kCluster_;
  static constexpr int kStrips = 2 * kSub;
  static constexpr int kTileRows = kStrips * kStripRows;
  static constexpr int kWeightBytes = kStrips * kStripBytes;
  static constexpr int kStageBytes = kWeightBytes + kMaxN * 128;
  static constexpr int kStages = 192 * 1024 / kStageBytes;
  static constexpr int kSharedBytes = kStages * kStageBytes + 1024;
};

/// The tile order, computed by every warp in the same way from the counts in shared memory. A row
/// tile is kCluster tiles high: the blocks of a cluster walk in step, each with its own rank.
template <typename S>
class TileWalk {
 public:
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
    const int n_size = ((count + n_tiles - 1) / n_tiles + 15) / 16 * 16;
    const int local = index - starts_[group_];
    const int pass = local / (kNarrowGroup * row_tiles_);
    const int in_pass = local - pass * kNarrowGroup * row_tiles_;
    const int width = min(kNarrowGroup, n_tiles - pass * kNarrowGroup);
    tile.group = group_;
    tile.row_tile = in_pass / width * S::kCluster + rank_;
    tile.first = (pass * kNarrowGroup + in_pass % width) * n_size;
    tile.rows = max(0, min(n_size, count - tile.first));
    tile.alone = n_tiles == 1;
    return true;
  }

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
__device__ void count_tiles(const Product& p, int row_tiles, int n_max, int* counts, int* starts) {
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

template <typename S>
__device__ void produce(const Product& p, const Ring& ring, TileWalk<S> walk) {
  const std::uint64_t once = evict_first_policy();
  const std::uint64_t again = evict_normal_policy();
  const int k_blocks = p.cols / kAtomCols;
  const std::size_t x_stride = static_cast<std::size_t>(p.capacity) / kAtomRows * kAtomBytes;
  std::uint32_t step = 0;
  Tile tile;
  while (walk.next(tile)) {
    const auto* weight =
        static_cast<const std::byte*>(p.weights != nullptr ? p.weights[tile.group] : p.weight);
    weight += static_cast<std::size_t>(tile.row_tile) * S::kStrips * k_blocks * kStripBytes;
    const int offset = p.offsets != nullptr ? p.offsets[tile.group] : 0;
    const auto* x = static_cast<const std::byte*>(p.x) +
                    static_cast<std::size_t>(offset + tile.first) / kAtomRows * kAtomBytes;
    const std::uint32_t x_bytes = (tile.rows + 15) / 16 * 16 * 128;
    for (int kb = 0; kb < k_blocks; ++kb, ++step) {
      const std::uint32_t stage = step % S::kStages;
      const std::uint32_t round = step / S::kStages;
      barrier_wait(ring.empty + stage * 8, (round & 1) ^ 1);
      const std::uint32_t full = ring.full + stage * 8;
      const std::uint32_t data = ring.data + stage * S::kStageBytes;
      barrier_expect(full, S::kWeightBytes + x_bytes);
#pragma unroll
      for (int s = 0; s < S::kStrips; ++s) {
        bulk_copy(data + s * kStripBytes,
                  weight + (static_cast<std::size_t>(s) * k_blocks + kb) * kStripBytes, kStripBytes,
                  full, tile.alone ? once : again);
      }
      if (x_bytes == 0) continue;
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
      const int t = j * 8 + quad;
      const int feature = strip * 64 + warp * 16 + pair;
      if (t < tile.rows) {
        const std::size_t row = p.out_rows != nullptr ? p.out_rows[first + t] : first + t;
        auto* to = static_cast<__nv_bfloat16*>(p.out) + row * p.features + feature;
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

/// One tile: multiplies all stages of K, then stores. `step` counts stages over all tiles.
template <typename S, Store kStore, int kN>
__device__ __forceinline__ void consume_tile(const Product& p, const Ring& ring, const Tile& tile,
                                             std::uint32_t& step) {
  constexpr int kSub = S::kSub;
  const int consumer = static_cast<int>(threadIdx.x) / 128 - 1;
  const int k_blocks = p.cols / kAtomCols;
  float acc[kSub][kN / 2];
#pragma unroll
  for (int s = 0; s < kSub; ++s) {
#pragma unroll
    for (int i = 0; i < kN / 2; ++i) acc[s][i] = 0;
  }
  for (int kb = 0; kb < k_blocks; ++kb, ++step) {
    const std::uint32_t stage = step % S::kStages;
    barrier_wait(ring.full + stage * 8, (step / S::kStages) & 1);
    const std::uint32_t data = ring.data + stage * S::kStageBytes;
    const std::uint64_t a = operand_descriptor(data + consumer * kSub * kStripBytes);
    const std::uint64_t b = operand_descriptor(data + S::kWeightBytes);
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < kAtomCols / 16; ++k) {
#pragma unroll
      for (int s = 0; s < kSub; ++s) {
        Wgmma<kN>::run(acc[s], a + (s * kStripBytes + k * 32) / 16, b + k * 32 / 16, 1);
      }
    }
    wgmma_commit();
    // The stage before this one has been read when at most the newest group is under way.
    wgmma_wait<1>();
    if (kb > 0) release<S>(ring, step - 1);
  }
  wgmma_wait<0>();
  release<S>(ring, step - 1);
#pragma unroll
  for (int s = 0; s < kSub; ++s) {
#pragma unroll
    for (int i = 0; i < kN / 2; ++i) asm volatile("" : "+f"(acc[s][i])::"memory");
  }
#pragma unroll
  for (int s = 0; s < kSub; ++s) {
    store_strip<kStore, kN>(p, tile, (tile.row_tile * 2 + consumer) * kSub + s, acc[s]);
  }
}

/// Picks the narrowest shape that holds the tile's rows.
template <typename S, Store kStore, int kN, int... kWider>
__device__ __forceinline__ void consume_narrowest(const Product& p, const Ring& ring,
                                                  const Tile& tile, std::uint32_t& step) {
  if constexpr (sizeof...(kWider) == 0) {
    consume_tile<S, kStore, kN>(p, ring, tile, step);
  } else if (tile.rows <= kN) {
    consume_tile<S, kStore, kN>(p, ring, tile, step);
  } else {
    consume_narrowest<S, kStore, kWider...>(p, ring, tile, step);
  }
}

template <typename S, Store kStore>
__global__ __cluster_dims__(S::kCluster, 1, 1)
    __launch_bounds__(kThreads, 1) void product_kernel(const __grid_constant__ Product p) {
  extern __shared__ std::byte dynamic[];
  __shared__ alignas(8) std::uint64_t barriers[2 * S::kStages];
  __shared__ int counts[kMaxGroups];
  __shared__ int starts[kMaxGroups + 1];
  const int row_tiles = p.weight_rows / (S::kTileRows * S::kCluster);
  const Ring ring{(shared_address(dynamic) + 1023U) & ~1023U, shared_address(barriers),
                  shared_address(barriers + S::kStages)};
  if (threadIdx.x < 32) count_tiles(p, row_tiles, S::kMaxN, counts, starts);
  if (threadIdx.x == 32) {
    for (int s = 0; s < S::kStages; ++s) {
      barrier_init(ring.full + s * 8, 1);
      barrier_init(ring.empty + s * 8, kConsumerWarps * S::kCluster);
    }
    barrier_init_fence();
  }
  __syncthreads();
  if constexpr (S::kCluster > 1) cluster_sync();
  TileWalk<S> walk(starts, counts, p.groups, row_tiles);
  if (threadIdx.x < 128) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 56;");
    if (threadIdx.x == 0) produce<S>(p, ring, walk);
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 224;");
    std::uint32_t step = 0;
    Tile tile;
    while (walk.next(tile)) {
      if constexpr (S::kMaxN == 64) {
        consume_narrowest<S, kStore, 16, 32, 64>(p, ring, tile, step);
      } else if constexpr (S::kMaxN == 128) {
        consume_narrowest<S, kStore, 16, 32, 64, 96, 128>(p, ring, tile, step);
      } else {
        consume_narrowest<S, kStore, 32, 64, 128, 144, 160, 176, 192, 208, 224, 240, 256>(
            p, ring, tile, step);
      }
    }
  }
  // Nobody leaves while a neighbour may still write here.
  __syncwarp();
  if constexpr (S::kCluster > 1) cluster_sync();
}

template <typename S, Store kStore>
cudaError_t launch(const Product& p, cudaStream_t stream) {
  static const cudaError_t ready = cudaFuncSetAttribute(
      product_kernel<S, kStore>, cudaFuncAttributeMaxDynamicSharedMemorySize, S::kSharedBytes);
  if (ready != cudaSuccess) return ready;
  const int blocks = multiprocessors() / S::kCluster * S::kCluster;
  product_kernel<S, kStore><<<blocks, kThreads, S::kSharedBytes, stream>>>(p);
  return cudaGetLastError();
}

template <Store kStore>
cudaError_t launch_by_rows(const Product& p, cudaStream_t stream) {
  // Few rows a group: small tiles spread best over the multiprocessors. Up to 128: tall tiles, so
  // that activations cost little L2 traffic. More: wide tiles keep the tensor cores busy.
  const int mean = p.counts != nullptr ? p.rows / p.groups : p.rows;
  if (mean <= 8) return launch<Shape<1, 64, 1>, kStore>(p, stream);
  if (mean <= 128) return launch<Shape<2, 128, 1>, kStore>(p, stream);
  return launch<Shape<1, 256, 2>, kStore>(p, stream);
}

}  // namespace

cudaError_t product(const Product& p, cudaStream_t stream) {
  if (p.rows == 0) return cudaSuccess;
  if (p.groups < 1 || p.groups > kMaxGroups || p.cols % kAtomCols != 0 ||
      p.weight_rows % kPackedRows != 0 || p.capacity % kAtomRows != 0) {
    return cudaErrorInvalidValue;
  }
  switch (p.store) {
    case Store::swiglu_tiled:
      return launch_by_rows<Store::swiglu_tiled>(p, stream);
    case Store::bf16_rows:
    case Store::silu_bf16_rows:
      return launch_by_rows<Store::bf16_rows>(p, stream);
    case Store::f32_rows:
      return launch_by_rows<Store::f32_rows>(p, stream);
  }
  return cudaErrorInvalidValue;
}

cudaError_t experts(const void* x, bool x_is_f32, int routes, const RouteGroups& groups,
                    const Experts& e, void* out, cudaStream_t stream) {
  cudaError_t status = gather_tiled(x, x_is_f32, e.hidden, groups, e.tiled_x, stream);
  if (status != cudaSuccess) return status;
  Product p{};
  p.x = e.tiled_x;
  p.capacity = groups.capacity;
  p.cols = e.hidden;
  p.weight_rows = 2 * e.inner;
  p.weights = e.gate_up;
  p.counts = groups.counts;
  p.rows = routes;
  p.offsets = groups.offsets;
  p.groups = groups.groups;
  p.store = Store::swiglu_tiled;
  p.out = e.tiled_inner;
  p.features = e.inner;
  status = product(p, stream);
  if (status != cudaSuccess) return status;
  p.x = e.tiled_inner;
  p.cols = e.inner;
  p.weight_rows = e.hidden;
  p.weights = e.down;
  p.store = Store::bf16_rows;
  p.out = out;
  p.out_rows = groups.target;
  p.features = e.hidden;
  return product(p, stream);
}

}  // namespace fulgur::kernels::cuda
