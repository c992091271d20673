// Grouped matrix product on Hopper: out = x · weightᵀ for groups of rows (experts), counts on the
// device. Dense layers are the case of one group.
//
// What and why. With few rows a group the product is a stream of weights: 340 MB an expert, read
// once. So the weight is the tall operand (M of wgmma), the rows are N, and the tile is
// kTileRows weight rows x up to kMaxN activation rows x the whole of K. Gate and up rows are
// interleaved by eights (layout.hpp): both factors of SwiGLU meet in one thread's registers and the
// inner activations leave as the tiled operand of the down product. The same code with wide N is the
// prefill product.
//
// Exact: one tile owns an output element and adds its products in K order, 16 at a time, in one
// accumulator. No split of K: rows, company and tile shape do not change a bit.
//
// Tiling. 3 warpgroups: one thread of the first feeds a ring of stages of 64 columns by contiguous
// bulk copies (weights and activations lie in memory as shared memory wants them), two multiply,
// kSub strips of 64 weight rows each. Persistent grid; tiles of a group run neighbours in N first, so
// that weights re-read for another N come from L2.
//
// Traffic. Weights once from DRAM; activations kMaxN / (128 kSub) of that from L2.
#include <cuda_runtime.h>

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
  int first;  ///< first row of the group
  int rows;   ///< at most kMaxN
  bool alone;  ///< no other tile reads these weights
};

template <int kSub, int kMaxN>
struct Shape {
  static constexpr int kStrips = 2 * kSub;
  static constexpr int kTileRows = kStrips * kStripRows;
  static constexpr int kWeightBytes = kStrips * kStripBytes;
  static constexpr int kStageBytes = kWeightBytes + kMaxN * 128;
  static constexpr int kStages = 4;
  static constexpr int kSharedBytes = kStages * kStageBytes + 1024;
};

/// The tile order, computed by every warp in the same way from the counts in shared memory.
class TileWalk {
 public:
  __device__ TileWalk(const int* starts, const int* counts, int groups, int row_tiles, int n_max)
      : starts_(starts), counts_(counts), groups_(groups), row_tiles_(row_tiles), n_max_(n_max) {}

  __device__ bool next(Tile& tile) {
    const int index = next_;
    next_ += static_cast<int>(gridDim.x);
    if (index >= starts_[groups_]) return false;
    while (index >= starts_[group_ + 1]) ++group_;
    const int count = counts_[group_];
    const int n_tiles = (count + n_max_ - 1) / n_max_;
    const int n_size = ((count + n_tiles - 1) / n_tiles + 15) / 16 * 16;
    const int local = index - starts_[group_];
    const int pass = local / (kNarrowGroup * row_tiles_);
    const int in_pass = local - pass * kNarrowGroup * row_tiles_;
    const int width = min(kNarrowGroup, n_tiles - pass * kNarrowGroup);
    tile.group = group_;
    tile.row_tile = in_pass / width;
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
  int n_max_;
  int group_ = 0;
  int next_ = static_cast<int>(blockIdx.x);
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
  std::uint32_t data;   ///< shared address of stage 0
  std::uint32_t full;   ///< shared address of the first of kStages barriers
  std::uint32_t empty;
};

template <typename S>
__device__ void produce(const Product& p, const Ring& ring, TileWalk walk) {
  const std::uint64_t once = evict_first_policy();
  const std::uint64_t again = evict_normal_policy();
  const int k_blocks = p.cols / kAtomCols;
  const std::size_t x_stride = static_cast<std::size_t>(p.capacity) / kAtomRows * kAtomBytes;
  std::uint32_t step = 0;
  Tile tile;
  while (walk.next(tile)) {
    const auto* weight = static_cast<const std::byte*>(
        p.weights != nullptr ? p.weights[tile.group] : p.weight);
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
      if (x_bytes > 0) bulk_copy(data + S::kWeightBytes, x + kb * x_stride, x_bytes, full, again);
    }
  }
}

/// Rows that the fragment of this thread is stored to, and the store itself.
template <Store kStore, int kN>
__device__ void store_strip(const Product& p, const Tile& tile, int strip, const float (&acc)[kN / 2]) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int warp = static_cast<int>(threadIdx.x) / 32 % 4;
  const int quad = lane / 4;
  const int pair = lane % 4 * 2;
  const int offset = p.offsets != nullptr ? p.offsets[tile.group] : 0;
  const int first = offset + tile.first;
#pragma unroll
  for (int j = 0; j < kN / 8; ++j) {
    if (j * 8 >= tile.rows) break;
    const float* d = acc + 4 * j;
    if constexpr (kStore == Store::swiglu_tiled) {
      const std::uint32_t inner = pack_bf16(silu(d[0]) * d[2], silu(d[1]) * d[3]);
      const std::uint32_t turned = transpose_matrix(inner);
      const int t = j * 8 + quad;
      const int f = strip * 32 + warp * 8 + pair;
      if (t < tile.rows) {
        auto* to = static_cast<std::byte*>(p.out) + tiled_byte(first + t, f, p.capacity);
        *reinterpret_cast<std::uint32_t*>(to) = turned;
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
      constexpr bool kSilu = kStore == Store::silu_bf16_rows;
      const auto value = [&](int i) { return kSilu ? silu(d[i]) : d[i]; };
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

/// One tile: multiplies all stages of K, then stores. `step` counts stages over all tiles.
template <typename S, int kSub, Store kStore, int kN>
__device__ __forceinline__ void consume_tile(const Product& p, const Ring& ring, const Tile& tile,
                                             std::uint32_t& step) {
  const int consumer = static_cast<int>(threadIdx.x) / 128 - 1;
  const bool leader = threadIdx.x % 32 == 0;
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
    if (leader && kb > 0) barrier_arrive(ring.empty + (step - 1) % S::kStages * 8);
  }
  wgmma_wait<0>();
  if (leader) barrier_arrive(ring.empty + (step - 1) % S::kStages * 8);
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

template <int kSub, int kMaxN, Store kStore>
__global__ __launch_bounds__(kThreads, 1) void product_kernel(const __grid_constant__ Product p) {
  using S = Shape<kSub, kMaxN>;
  extern __shared__ std::byte dynamic[];
  __shared__ alignas(8) std::uint64_t barriers[2 * S::kStages];
  __shared__ int counts[kMaxGroups];
  __shared__ int starts[kMaxGroups + 1];
  const int row_tiles = p.weight_rows / S::kTileRows;
  const Ring ring{(shared_address(dynamic) + 1023U) & ~1023U, shared_address(barriers),
                  shared_address(barriers + S::kStages)};
  if (threadIdx.x < 32) count_tiles(p, row_tiles, kMaxN, counts, starts);
  if (threadIdx.x == 32) {
    for (int s = 0; s < S::kStages; ++s) {
      barrier_init(ring.full + s * 8, 1);
      barrier_init(ring.empty + s * 8, kConsumerWarps);
    }
    barrier_init_fence();
  }
  __syncthreads();
  TileWalk walk(starts, counts, p.groups, row_tiles, kMaxN);
  if (threadIdx.x < 128) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
    if (threadIdx.x == 0) produce<S>(p, ring, walk);
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
    std::uint32_t step = 0;
    Tile tile;
    while (walk.next(tile)) {
      if (tile.rows <= 16) {
        consume_tile<S, kSub, kStore, 16>(p, ring, tile, step);
      } else if (tile.rows <= 32) {
        consume_tile<S, kSub, kStore, 32>(p, ring, tile, step);
      } else if (tile.rows <= 64) {
        consume_tile<S, kSub, kStore, 64>(p, ring, tile, step);
      } else if (kMaxN == 128 && tile.rows <= 96) {
        consume_tile<S, kSub, kStore, 96>(p, ring, tile, step);
      } else if (tile.rows <= 128) {
        consume_tile<S, kSub, kStore, 128>(p, ring, tile, step);
      } else if constexpr (kMaxN == 256) {
        if (tile.rows <= 192) {
          consume_tile<S, kSub, kStore, 192>(p, ring, tile, step);
        } else {
          consume_tile<S, kSub, kStore, 256>(p, ring, tile, step);
        }
      }
    }
  }
}

int multiprocessors() {
  static const int count = [] {
    int device = 0, value = 0;
    cudaGetDevice(&device);
    cudaDeviceGetAttribute(&value, cudaDevAttrMultiProcessorCount, device);
    return value;
  }();
  return count;
}

template <int kSub, int kMaxN, Store kStore>
cudaError_t launch(const Product& p, cudaStream_t stream) {
  using S = Shape<kSub, kMaxN>;
  static const cudaError_t ready =
      cudaFuncSetAttribute(product_kernel<kSub, kMaxN, kStore>,
                           cudaFuncAttributeMaxDynamicSharedMemorySize, S::kSharedBytes);
  if (ready != cudaSuccess) return ready;
  product_kernel<kSub, kMaxN, kStore><<<multiprocessors(), kThreads, S::kSharedBytes, stream>>>(p);
  return cudaGetLastError();
}

template <Store kStore>
cudaError_t launch_by_rows(const Product& p, cudaStream_t stream) {
  // 17 to 128 rows a group: tall tiles, so that activations cost little L2 traffic. Fewer: small
  // tiles spread better over the multiprocessors. More: wide tiles keep the tensor cores busy.
  const int mean = p.counts != nullptr ? p.rows / p.groups : p.rows;
  return mean > 8 && mean <= 128 ? launch<2, 128, kStore>(p, stream)
                                 : launch<1, 256, kStore>(p, stream);
}

}  // namespace

cudaError_t product(const Product& p, cudaStream_t stream) {
  if (p.rows == 0) return cudaSuccess;
  if (p.groups < 1 || p.groups > kMaxGroups || p.cols % kAtomCols != 0 ||
      p.weight_rows % kPackedRows != 0 || p.capacity % kAtomRows != 0) {
    return cudaErrorInvalidValue;
  }
  switch (p.store) {
    case Store::swiglu_tiled: return launch_by_rows<Store::swiglu_tiled>(p, stream);
    case Store::bf16_rows: return launch_by_rows<Store::bf16_rows>(p, stream);
    case Store::silu_bf16_rows: return launch_by_rows<Store::silu_bf16_rows>(p, stream);
    case Store::f32_rows: return launch_by_rows<Store::f32_rows>(p, stream);
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
