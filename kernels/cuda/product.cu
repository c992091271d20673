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
// accumulator. No split of K: rows, company and tile shape do not change a bit. (Free sums:
// product_free.cu.)
//
// Tiling. 3 warpgroups: one thread of the first feeds a ring of stages of 64 columns by contiguous
// bulk copies (weights and activations lie in memory as shared memory wants them), two multiply,
// kSub strips of 64 weight rows each. Persistent grid; tiles of a group run neighbours in N first,
// so that weights re-read for another N come from L2.
//
// A call of at most 16 rows has few tiles, and the last of them run on few multiprocessors, each of
// which can take some 80 GB/s. Its tiles are one strip, with one warpgroup that multiplies: two of
// M1's experts are 576 tiles of gate and up (4.4 a multiprocessor, the last on 48) and 192 of down,
// where tiles of two strips were 288 (the last on 24) and 96.
//
// Stores. From the fragments (tiles.cuh), those of wide tiles through shared memory
// (staged_store.cuh).
//
// Traffic. Weights once from DRAM; activations kMaxN / (128 kSub) of that from L2. Wide tiles run
// in clusters of two blocks with neighbouring weight rows: each fetches half of the common
// activations for both, or L2 would be the limit.
#include <cuda_runtime.h>

#include "kernels/cuda/device.hpp"
#include "kernels/cuda/launch.hpp"
#include "kernels/cuda/overlap.hpp"
#include "kernels/cuda/product_tile.cuh"

namespace fulgur::kernels::cuda {
namespace {

/// One tile: multiplies all stages of K, then stores. `step` counts stages over all tiles; tiles:
/// how many before this one.
template <typename S, Store kStore, int kN>
__device__ __forceinline__ void consume_tile(const Product& p, const Ring& ring,
                                             const Staging& staging, const Tile& tile,
                                             std::uint32_t tiles, std::uint32_t& step) {
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
  if constexpr (kIsSent<S, kStore>) {
    stage_swiglu<kN>(tile, staging, tiles, acc[0]);
  } else if constexpr (kIsStaged<S, kStore>) {
    stage_rows<kN>(p, tile, staging, acc[0]);
  } else {
#pragma unroll
    for (int s = 0; s < kSub; ++s) {
      store_strip<kStore, kN>(p, tile, (tile.row_tile * S::kConsumers + consumer) * kSub + s,
                              acc[s]);
    }
  }
}

/// Picks the narrowest shape that holds the tile's rows.
template <typename S, Store kStore, int kN, int... kWider>
__device__ __forceinline__ void consume_narrowest(const Product& p, const Ring& ring,
                                                  const Staging& staging, const Tile& tile,
                                                  std::uint32_t tiles, std::uint32_t& step) {
  if constexpr (sizeof...(kWider) == 0) {
    consume_tile<S, kStore, kN>(p, ring, staging, tile, tiles, step);
  } else if (tile.rows <= kN) {
    consume_tile<S, kStore, kN>(p, ring, staging, tile, tiles, step);
  } else {
    consume_narrowest<S, kStore, kWider...>(p, ring, staging, tile, tiles, step);
  }
}

template <typename S, Store kStore>
__global__ __cluster_dims__(S::kCluster, 1, 1)
    __launch_bounds__(S::kThreads, 1) void product_kernel(const __grid_constant__ Product p) {
  using Shared = SharedMemory<S, kStore>;
  extern __shared__ __align__(1024) std::byte dynamic[];
  if (shared_address(dynamic) % 1024 != 0) __trap();  // swizzles count from the address
  auto* counts = reinterpret_cast<int*>(dynamic + Shared::kCounts);
  auto* starts = reinterpret_cast<int*>(dynamic + Shared::kStarts);
  auto* order = kOrdered<S> ? reinterpret_cast<std::uint8_t*>(dynamic + Shared::kOrder) : nullptr;
  const std::uint32_t barriers = shared_address(dynamic + Shared::kBarriers);
  const int row_tiles = p.weight_rows / (S::kTileRows * S::kCluster);
  const Ring ring{shared_address(dynamic), barriers, barriers + S::kStages * 8};
  const Staging staging{shared_address(dynamic + Shared::kStaging), barriers + 2 * S::kStages * 8,
                        barriers + (2 * S::kStages + 1) * 8};
  if (!p.early) wait_for_previous();
  if (threadIdx.x < 32) count_tiles(p, row_tiles, S::kMaxN, counts, starts, order);
  if (threadIdx.x == 32) {
    for (int s = 0; s < S::kStages; ++s) {
      barrier_init(ring.full + s * 8, 1);
      barrier_init(ring.empty + s * 8, S::kConsumerWarps * S::kCluster);
    }
    barrier_init(staging.full, S::kConsumerWarps);
    barrier_init(staging.free, 1);
    barrier_init_fence();
  }
  __syncthreads();
  if constexpr (S::kCluster > 1) cluster_sync();
  TileWalk<S> walk(starts, counts, p.groups, row_tiles, order);
  // Not the first warp: its one thread that works waits after the first weights (produce()).
  if (threadIdx.x >= 32) {
    wait_for_previous();
    let_next_begin();
  }
  if (threadIdx.x < 128) {
    if constexpr (S::kConsumers > 1) asm volatile("setmaxnreg.dec.sync.aligned.u32 56;");
    if (threadIdx.x == 0) produce<S>(p, ring, walk);
    if constexpr (kIsSent<S, kStore>) {
      if (threadIdx.x == 32) send_tiles<S>(p, staging, walk);
    }
  } else {
    if constexpr (S::kConsumers > 1) asm volatile("setmaxnreg.inc.sync.aligned.u32 224;");
    std::uint32_t step = 0;
    Tile tile;
    for (std::uint32_t tiles = 0; walk.next(tile); ++tiles) {
      if constexpr (S::kMaxN == 16) {
        consume_narrowest<S, kStore, 16>(p, ring, staging, tile, tiles, step);
      } else if constexpr (S::kMaxN == 64) {
        consume_narrowest<S, kStore, 16, 32, 64>(p, ring, staging, tile, tiles, step);
      } else if constexpr (S::kMaxN == 128) {
        consume_narrowest<S, kStore, 16, 32, 64, 96, 128>(p, ring, staging, tile, tiles, step);
      } else {
        consume_narrowest<S, kStore, 32, 64, 128, 144, 160, 176, 192, 208, 224, 240, 256>(
            p, ring, staging, tile, tiles, step);
      }
    }
  }
  // Nobody leaves while a neighbour may still write here.
  __syncwarp();
  if constexpr (S::kCluster > 1) cluster_sync();
}

template <typename S, Store kStore>
cudaError_t launch(const Product& p, cudaStream_t stream) {
  constexpr int kBytes = SharedMemory<S, kStore>::kBytes;
  static const cudaError_t ready = cudaFuncSetAttribute(
      product_kernel<S, kStore>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  if (ready != cudaSuccess) return ready;
  const int blocks = multiprocessors() / S::kCluster * S::kCluster;
  return launch_overlapped(product_kernel<S, kStore>, blocks, S::kThreads, kBytes, stream, p);
}

}  // namespace

cudaError_t product(const Product& p, cudaStream_t stream) {
  if (p.rows == 0) return cudaSuccess;
  if (p.groups < 1 || p.groups > kMaxGroups || p.cols % kAtomCols != 0 ||
      p.weight_rows % kPackedRows != 0 || p.capacity % kAtomRows != 0) {
    return cudaErrorInvalidValue;
  }
  if (p.sums == Sums::free) return product_free(p, stream);
  return with_shape(p, [&](auto shape, auto store) {
    return launch<decltype(shape), decltype(store)::value>(p, stream);
  });
}

cudaError_t expert_products(ProductCall call, int routes, const RouteGroups& groups,
                            const Experts& e, void* out, cudaStream_t stream) {
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
  p.early = true;
  p.sums = e.sums;
  p.partials = e.partials;
  const cudaError_t status = call(p, stream);
  if (status != cudaSuccess) return status;
  p.x = e.tiled_inner;
  p.cols = e.inner;
  p.weight_rows = e.hidden;
  p.weights = e.down;
  p.store = Store::bf16_rows;
  p.out = out;
  p.out_rows = groups.target;
  p.features = e.hidden;
  return call(p, stream);
}

cudaError_t experts(const void* x, bool x_is_f32, int routes, const RouteGroups& groups,
                    const Experts& e, void* out, cudaStream_t stream) {
  const cudaError_t status = gather_tiled(x, x_is_f32, e.hidden, groups, e.tiled_x, stream);
  if (status != cudaSuccess) return status;
  return expert_products(product, routes, groups, e, out, stream);
}

}  // namespace fulgur::kernels::cuda
