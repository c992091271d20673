// The bf16 product with free sums: as product.cu, but the last tiles of a launch are cut along K
// into equal stretches, so that no multiprocessor idles while others work on a last, half-empty
// round of tiles (shares.hpp says how). To measure what exact mode costs.
//
// Hand-over. A piece without its tile's first stage leaves its accumulators in global memory, which
// is L2, 16 bytes a thread and whole lines a warp, and raises its block's flag; the one with the
// first stage waits for those behind it in order, adds, and stores as ever. Nobody waits before it
// has left what is its to leave, so there is no circle; and no block waits but for the blocks right
// behind it, which run at the same time or as soon as any block ends. The taker lowers the flag: a
// launch leaves the flags as it found them, and so can be part of a graph.
//
// Traffic beside product.cu's: at most 128 KiB a block to L2 and back.
#include <cuda_runtime.h>

#include "kernels/cuda/device.hpp"
#include "kernels/cuda/launch.hpp"
#include "kernels/cuda/overlap.hpp"
#include "kernels/cuda/product_tile.cuh"
#include "kernels/cuda/shares.hpp"

namespace fulgur::kernels::cuda {
namespace {

template <typename S>
constexpr int kConsumerThreads = S::kConsumerWarps * 32;
template <typename S>
constexpr bool kFits = S::kSub* S::kMaxN* kConsumerThreads<S> * 2 <= kPartialBytes;

template <typename S>
FULGUR_HOST_DEVICE StageCost stage_cost(const Product& p) {
  const int mean = larger(1, p.counts != nullptr ? p.rows / p.groups : p.rows);
  const int tiles = (mean + S::kMaxN - 1) / S::kMaxN;  // that read the same weights
  const int rows = (mean / tiles + 15) / 16 * 16;
  return {larger(S::kTileRows * rows * kAtomCols * 2 / kBlockFlopsPerNs,
                 (S::kWeightBytes + rows * 128) / kBlockBytesPerNs),
          S::kCluster * S::kWeightBytes / tiles, S::kSub * rows * kConsumerThreads<S> * 2};
}

/// Tiles dealt one by one, then this unit's stretch, which stays in shared memory: the multiplying
/// threads have no register to spare.
template <typename S>
class ShareWalk {
 public:
  using Item = Piece;

  __device__ ShareWalk(const TileWalk<S>& walk, const Stretch& stretch, int stages)
      : tiles_(walk), stretch_(stretch), stages_(stages), at_(stretch.begin) {}

  __device__ bool next(Piece& piece) {
    if (tiles_.upcoming() < stretch_.whole) {
      piece.begin = 0;
      piece.end = stages_;
      return tiles_.next(piece);
    }
    if (at_ >= stretch_.end) return false;
    const int tile = at_ / stages_;
    piece.begin = at_ - tile * stages_;
    piece.end = min(stages_, piece.begin + stretch_.end - at_);
    at_ += piece.end - piece.begin;
    tiles_.go_to(stretch_.whole + tile);
    return tiles_.next(piece);
  }

 private:
  TileWalk<S> tiles_;
  const Stretch& stretch_;
  int stages_;
  int at_;
};

/// Sums on their way from block to block. kThreads: that multiply.
template <int kThreads>
struct Partials {
  void* memory;

  /// Leaves this block's sums to who stores the tile.
  template <int kSub, int kValues>
  __device__ __forceinline__ void leave(const float (&acc)[kSub][kValues]) const {
    const int block = static_cast<int>(blockIdx.x);
    float4* to = sums_of(block);
#pragma unroll
    for (int s = 0; s < kSub; ++s) {
#pragma unroll
      for (int i = 0; i < kValues; i += 4) {
        __stcg(to + (s * kValues + i) / 4 * kThreads,
               make_float4(acc[s][i], acc[s][i + 1], acc[s][i + 2], acc[s][i + 3]));
      }
    }
    sync();
    if (threadIdx.x == 128) raise_flag(flag_of(block));
  }

  /// Adds those of the next `units` units.
  template <int kCluster, int kSub, int kValues>
  __device__ __forceinline__ void add_next(int units, float (&acc)[kSub][kValues]) const {
    int block = static_cast<int>(blockIdx.x);
    for (int n = 0; n < units; ++n) {
      block += kCluster;
      if (threadIdx.x == 128) take_flag(flag_of(block));
      sync();
      const float4* other = sums_of(block);
#pragma unroll
      for (int s = 0; s < kSub; ++s) {
#pragma unroll
        for (int i = 0; i < kValues; i += 4) {
          const float4 v = __ldcg(other + (s * kValues + i) / 4 * kThreads);
          acc[s][i] += v.x;
          acc[s][i + 1] += v.y;
          acc[s][i + 2] += v.z;
          acc[s][i + 3] += v.w;
        }
      }
    }
  }

 private:
  __device__ __forceinline__ static void sync() {
    asm volatile("bar.sync 1, %0;" ::"n"(kThreads) : "memory");
  }
  __device__ __forceinline__ int* flag_of(int block) const {
    return static_cast<int*>(memory) + block;
  }
  /// Where this thread's sums of a block lie, kThreads apart.
  __device__ __forceinline__ float4* sums_of(int block) const {
    auto* sums = static_cast<std::byte*>(memory) + kFlagBytes +
                 static_cast<std::size_t>(block) * kPartialBytes;
    return reinterpret_cast<float4*>(sums) + (static_cast<int>(threadIdx.x) - 128);
  }
};

/// The multiplying warps' sums of the next `stages` stages, columns ascending, from zero. `step`
/// counts stages over all tiles.
template <typename S, int kN>
__device__ __forceinline__ void multiply(const Ring& ring, int stages, std::uint32_t& step,
                                         float (&acc)[S::kSub][kN / 2]) {
  constexpr int kSub = S::kSub;
  const int consumer = static_cast<int>(threadIdx.x) / 128 - 1;
#pragma unroll
  for (int s = 0; s < kSub; ++s) {
#pragma unroll
    for (int i = 0; i < kN / 2; ++i) acc[s][i] = 0;
  }
  for (int kb = 0; kb < stages; ++kb, ++step) {
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
}

/// The tile from the multiplying warps' sums. tiles: how many the block has stored before it.
template <typename S, Store kStore, int kN>
__device__ __forceinline__ void store_tile(const Product& p, const Tile& tile,
                                           const Staging& staging, std::uint32_t tiles,
                                           float (&acc)[S::kSub][kN / 2]) {
  constexpr int kSub = S::kSub;
  const int consumer = static_cast<int>(threadIdx.x) / 128 - 1;
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

/// One piece: multiplies its stages, then stores the tile or leaves its sums to who does. tiles:
/// how many this block has stored before.
template <typename S, Store kStore, int kN>
__device__ __forceinline__ void consume_piece(const Product& p, const Ring& ring,
                                              const Staging& staging, const int& others,
                                              const Piece& piece, std::uint32_t tiles,
                                              std::uint32_t& step) {
  static_assert(kFits<S>);
  const Partials<kConsumerThreads<S>> partials{p.partials};
  float acc[S::kSub][kN / 2];
  multiply<S, kN>(ring, piece.end - piece.begin, step, acc);
  if (piece.begin > 0) return partials.leave(acc);
  if (piece.end < p.cols / kAtomCols) partials.template add_next<S::kCluster>(others, acc);
  store_tile<S, kStore, kN>(p, piece, staging, tiles, acc);
}

/// Picks the narrowest shape that holds the piece's rows.
template <typename S, Store kStore, int kN, int... kWider>
__device__ __forceinline__ void consume_narrowest(const Product& p, const Ring& ring,
                                                  const Staging& staging, const int& others,
                                                  const Piece& piece, std::uint32_t tiles,
                                                  std::uint32_t& step) {
  if constexpr (sizeof...(kWider) == 0) {
    consume_piece<S, kStore, kN>(p, ring, staging, others, piece, tiles, step);
  } else if (piece.rows <= kN) {
    consume_piece<S, kStore, kN>(p, ring, staging, others, piece, tiles, step);
  } else {
    consume_narrowest<S, kStore, kWider...>(p, ring, staging, others, piece, tiles, step);
  }
}

/// known: the shares of a product whose rows the host knows; of others every block finds the same.
/// The rest is product_kernel()'s.
template <typename S, Store kStore>
__global__ __cluster_dims__(S::kCluster, 1, 1)
    __launch_bounds__(S::kThreads,
                      1) void product_free_kernel(const __grid_constant__ Product p,
                                                  const __grid_constant__ Shares known) {
  using Shared = SharedMemory<S, kStore>;
  extern __shared__ __align__(1024) std::byte dynamic[];
  if (shared_address(dynamic) % 1024 != 0) __trap();  // swizzles count from the address
  auto* counts = reinterpret_cast<int*>(dynamic + Shared::kCounts);
  auto* starts = reinterpret_cast<int*>(dynamic + Shared::kStarts);
  auto* stretch = reinterpret_cast<Stretch*>(dynamic + Shared::kBytes);
  const std::uint32_t barriers = shared_address(dynamic + Shared::kBarriers);
  const int row_tiles = p.weight_rows / (S::kTileRows * S::kCluster);
  const int stages = p.cols / kAtomCols;
  const Ring ring{shared_address(dynamic), barriers, barriers + S::kStages * 8};
  const Staging staging{shared_address(dynamic + Shared::kStaging), barriers + 2 * S::kStages * 8,
                        barriers + (2 * S::kStages + 1) * 8};
  if (!p.early) wait_for_previous();
  if (threadIdx.x < 32) count_tiles(p, row_tiles, S::kMaxN, counts, starts);
  if (threadIdx.x == 0) {  // who has written starts[p.groups]
    const int units = static_cast<int>(gridDim.x) / S::kCluster;
    const int tiles = starts[p.groups];
    const Shares shares =
        p.counts == nullptr ? known : shares_of(tiles, units, stages, stage_cost<S>(p));
    *stretch = stretch_of(shares, tiles, stages, static_cast<int>(blockIdx.x) / S::kCluster);
  }
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
  ShareWalk<S> walk(TileWalk<S>(starts, counts, p.groups, row_tiles), *stretch, stages);
  // As product_kernel(): the first warp's one thread waits after the first weights.
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
    const int& others = stretch->others;
    Piece piece;
    for (std::uint32_t tiles = 0; walk.next(piece); tiles += is_stored(piece) ? 1 : 0) {
      if constexpr (S::kMaxN == 16) {
        consume_narrowest<S, kStore, 16>(p, ring, staging, others, piece, tiles, step);
      } else if constexpr (S::kMaxN == 64) {
        consume_narrowest<S, kStore, 16, 32, 64>(p, ring, staging, others, piece, tiles, step);
      } else if constexpr (S::kMaxN == 128) {
        consume_narrowest<S, kStore, 16, 32, 64, 96, 128>(p, ring, staging, others, piece, tiles,
                                                          step);
      } else {
        consume_narrowest<S, kStore, 32, 64, 128, 144, 160, 176, 192, 208, 224, 240, 256>(
            p, ring, staging, others, piece, tiles, step);
      }
    }
  }
  // Nobody leaves while a neighbour may still write here.
  __syncwarp();
  if constexpr (S::kCluster > 1) cluster_sync();
}

template <typename S, Store kStore>
cudaError_t launch(const Product& p, cudaStream_t stream) {
  constexpr int kBytes = SharedMemory<S, kStore>::kBytes + sizeof(Stretch);
  static_assert(kBytes <= 227 * 1024 && SharedMemory<S, kStore>::kBytes % alignof(Stretch) == 0);
  static const cudaError_t ready = cudaFuncSetAttribute(
      product_free_kernel<S, kStore>, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes);
  if (ready != cudaSuccess) return ready;
  const int units = multiprocessors() / S::kCluster;
  const int tiles =
      p.weight_rows / (S::kTileRows * S::kCluster) * ((p.rows + S::kMaxN - 1) / S::kMaxN);
  const Shares shares = shares_of(tiles, units, p.cols / kAtomCols, stage_cost<S>(p));
  return launch_overlapped(product_free_kernel<S, kStore>, units * S::kCluster, S::kThreads, kBytes,
                           stream, p, shares);
}

}  // namespace

std::size_t product_partials_bytes() {
  return kFlagBytes + static_cast<std::size_t>(multiprocessors()) * kPartialBytes;
}

cudaError_t product_free(const Product& p, cudaStream_t stream) {
  if (p.partials == nullptr || multiprocessors() > kBlocksMax) return cudaErrorInvalidValue;
  return with_shape(p, [&](auto shape, auto store) {
    return launch<decltype(shape), decltype(store)::value>(p, stream);
  });
}

}  // namespace fulgur::kernels::cuda
