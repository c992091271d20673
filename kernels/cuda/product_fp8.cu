// Grouped matrix product with e4m3 operands: product.cu's structure (tiles.cuh) on half the bytes.
//
// Scales. A stage is 128 columns: one block of the weight's and of the rows' scales. Its products
// are summed by the tensor cores from zero (they keep some 14 bits between products, too few for
// all of K), then each sum is multiplied by weight scale x row scale and added in float32, stages
// ascending.
//
// Exact: the same argument as in product.cu, and the scales of a row are its own. No split of K:
// rows, company and tile shape do not change a bit.
//
// SwiGLU. A tile of 256 packed rows holds gate and up of 128 inner features, one block of the inner
// activations' scales: the warps exchange their largest magnitudes and store the quantised block,
// which is the tiled operand of the down product.
//
// At most 16 rows: one warpgroup multiplies, in tiles of one strip (product.cu says why). SwiGLU's
// 256 packed rows are then two blocks of a cluster, two strips each, and the warps of both exchange
// magnitudes: two of M1's experts are 144 tiles, of which 132 multiprocessors ran 12 alone.
//
// Registers. The sums of a stage and those of the tile both live in them, so a tile is at most 128
// wide; two strips of 64 rows share one set of stage sums where it is wide, and while one warpgroup
// adds, the other multiplies.
#include <cuda_runtime.h>

#include "common/base/e4m3.hpp"
#include "kernels/cuda/device.hpp"
#include "kernels/cuda/launch.hpp"
#include "kernels/cuda/layout.hpp"
#include "kernels/cuda/overlap.hpp"
#include "kernels/cuda/ptx.cuh"
#include "kernels/cuda/tiles.cuh"
#include "kernels/cuda/wgmma_e4m3.cuh"

namespace fulgur::kernels::cuda {
namespace {

/// Warps that hold the 256 packed rows of a block of SwiGLU's scales, and the blocks they are in.
constexpr int kBlockWarps = 8;
template <typename S>
constexpr int kBlockParts = 256 / S::kTileRows;

/// Floats of the buffer in which these warps exchange magnitudes: [2 tiles][warps][rows].
template <typename S, Store kStore>
constexpr int kExchange = kStore == Store::swiglu_tiled ? 2 * kBlockWarps* S::kMaxN : 2;

/// One tile's half of that buffer. In a cluster: the barrier that completes its phase of `parity`
/// when every warp's magnitudes are in both blocks.
struct Exchange {
  float* tops;
  std::uint32_t barrier;
  std::uint32_t parity;
};

/// Keeps the compiler from using results of wgmma before the wait for them.
template <int kCount>
__device__ __forceinline__ void pin(float (&values)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(values[i])::"memory");
}

/// acc += part * (weight scale * row scale). weight: scales of the first and the last eight of
/// sixteen rows; rows: shared address of the rows' scales.
template <int kN>
__device__ __forceinline__ void promote(const float (&part)[kN / 2], float2 weight,
                                        std::uint32_t rows, float (&acc)[kN / 2]) {
  const std::uint32_t mine = rows + threadIdx.x % 4 * 8;
#pragma unroll
  for (int j = 0; j < kN / 8; ++j) {
    const float2 row = load_pair(mine + j * 32);
    acc[4 * j] = fmaf(part[4 * j], __fmul_rn(weight.x, row.x), acc[4 * j]);
    acc[4 * j + 1] = fmaf(part[4 * j + 1], __fmul_rn(weight.x, row.y), acc[4 * j + 1]);
    acc[4 * j + 2] = fmaf(part[4 * j + 2], __fmul_rn(weight.y, row.x), acc[4 * j + 2]);
    acc[4 * j + 3] = fmaf(part[4 * j + 3], __fmul_rn(weight.y, row.y), acc[4 * j + 3]);
  }
}

/// silu(gate) * up of the tile's 128 features, quantised, as the tiled operand of the next product.
/// acc: both strips of the warpgroup, overwritten: acc[s][4 j + i] is then feature 2 quad + s of
/// row 8 j + pair + i.
template <typename S, int kN>
__device__ __forceinline__ void store_swiglu(const Product& p, const Tile& tile,
                                             float (&acc)[2][kN / 2], const Exchange& exchange) {
  static_assert(kBlockParts<S> * S::kConsumerWarps == kBlockWarps);
  static_assert(kBlockParts<S> == 1 || kBlockParts<S> == S::kCluster);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  // Among the block's of scales, whose number is scale_block.
  const int scale_block = tile.row_tile / kBlockParts<S>;
  const int warp =
      static_cast<int>(threadIdx.x) / 32 - 4 + tile.row_tile % kBlockParts<S> * S::kConsumerWarps;
  const int quad = lane / 4;
  const int pair = lane % 4 * 2;
#pragma unroll
  for (int j = 0; j < kN / 8; ++j) {
    if (j * 8 >= tile.rows) break;
    float top[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int at = 4 * j + i;
      acc[0][at] = silu(acc[0][at]) * acc[0][at + 2];
      acc[1][at] = silu(acc[1][at]) * acc[1][at + 2];
      top[i] = fmaxf(fabsf(acc[0][at]), fabsf(acc[1][at]));
#pragma unroll
      for (int step = 4; step < 32; step *= 2) {
        top[i] = fmaxf(top[i], __shfl_xor_sync(0xffffffffU, top[i], step));
      }
    }
    if (quad == 0) {
      float* mine = exchange.tops + warp * S::kMaxN + j * 8 + pair;
      if constexpr (kBlockParts<S> == 1) {
        *reinterpret_cast<float2*>(mine) = make_float2(top[0], top[1]);
      } else {
#pragma unroll
        for (int rank = 0; rank < kBlockParts<S>; ++rank) {
          store_pair_at(shared_address(mine), rank, make_float2(top[0], top[1]));
        }
      }
    }
  }
  if constexpr (kBlockParts<S> == 1) {
    consumer_sync();
  } else {
    __syncwarp();  // the warp's magnitudes are written, and those of the last tile read
    if (lane < kBlockParts<S>) barrier_publish_at(exchange.barrier, lane);
    barrier_wait_cluster(exchange.barrier, exchange.parity);
  }
  const int first = (p.offsets != nullptr ? p.offsets[tile.group] : 0) + tile.first;
  const int feature = scale_block * 128 + warp * 16 + lane % 4 * 4;
  auto* out = static_cast<std::byte*>(p.out);
  std::byte* codes = out + tiled8_byte(first + quad, feature, p.capacity);
  auto* scales =
      reinterpret_cast<float*>(out + tiled8_scale_byte(first, scale_block, p.features, p.capacity));
#pragma unroll
  for (int j = 0; j < kN / 8; ++j) {
    if (j * 8 >= tile.rows) break;
    const int t = j * 8 + pair;
    float2 top = make_float2(0, 0);
#pragma unroll
    for (int w = 0; w < kBlockWarps; ++w) {
      const float2 other = *reinterpret_cast<const float2*>(exchange.tops + w * S::kMaxN + t);
      top = make_float2(fmaxf(top.x, other.x), fmaxf(top.y, other.y));
    }
    const E4m3Scale a = e4m3_scale(top.x), b = e4m3_scale(top.y);
    const std::uint32_t low = pack_e4m3(acc[0][4 * j] * a.inverse, acc[1][4 * j] * a.inverse);
    const std::uint32_t high =
        pack_e4m3(acc[0][4 * j + 1] * b.inverse, acc[1][4 * j + 1] * b.inverse);
    // From two rows of two features a thread to one row of four.
    const std::uint32_t turned = transpose_matrix(low | high << 16);
    if (j * 8 + quad < tile.rows) {
      *reinterpret_cast<std::uint32_t*>(codes + j * kAtomBytes) = turned;
    }
    if (warp == 0 && quad == 0) {
      if (t < tile.rows) scales[t] = a.scale;
      if (t + 1 < tile.rows) scales[t + 1] = b.scale;
    }
  }
}

/// One tile: multiplies all stages of K, then stores. `step` counts stages over all tiles.
template <typename S, Store kStore, int kN>
__device__ __forceinline__ void consume_tile(const Product& p, const Ring& ring, const Tile& tile,
                                             std::uint32_t& step, const Exchange& exchange) {
  constexpr int kSub = S::kSub;
  // Strips multiplied before the first sum is taken: both, where the registers hold their sums.
  constexpr int kParts = kSub * kN <= 128 ? kSub : 1;
  const int consumer = static_cast<int>(threadIdx.x) / 128 - 1;
  const int first_strip = (tile.row_tile * S::kConsumers + consumer) * kSub;
  const std::uint32_t half = first_strip / 2 % 2 * 8;  // of the quad of scales
  const int k_blocks = p.cols / S::kBlockCols;
  float acc[kSub][kN / 2];
  float part[kParts][kN / 2];
#pragma unroll
  for (int i = 0; i < kN / 2; ++i) {
#pragma unroll
    for (int s = 0; s < kSub; ++s) acc[s][i] = 0;
#pragma unroll
    for (int s = 0; s < kParts; ++s) part[s][i] = 0;
  }
  for (int kb = 0; kb < k_blocks; ++kb, ++step) {
    const std::uint32_t stage = step % S::kStages;
    barrier_wait(ring.full + stage * 8, (step / S::kStages) & 1);
    const std::uint32_t data = ring.data + stage * S::kStageBytes;
    const std::uint32_t scales = stage_scales<S>(ring, stage);
    const std::uint64_t a = operand_descriptor(data + consumer * kSub * kStripBytes);
    const std::uint64_t b = operand_descriptor(data + S::kWeightBytes);
    const float2 weight = load_pair(scales + half);
#pragma unroll
    for (int base = 0; base < kSub; base += kParts) {
      wgmma_fence();
#pragma unroll
      for (int k = 0; k < S::kBlockCols / 32; ++k) {
#pragma unroll
        for (int s = 0; s < kParts; ++s) {
          WgmmaE4m3<kN>::run(part[s], a + ((base + s) * kStripBytes + k * 32) / 16, b + k * 32 / 16,
                             k > 0);
        }
      }
      wgmma_commit();
      wgmma_wait<0>();
#pragma unroll
      for (int s = 0; s < kParts; ++s) {
        pin(part[s]);
        promote<kN>(part[s], weight, scales + kScaleQuadBytes, acc[base + s]);
      }
    }
    __syncwarp();  // all lanes have read the scales
    release<S>(ring, step);
  }
  if constexpr (kStore == Store::swiglu_tiled) {
    store_swiglu<S, kN>(p, tile, acc, exchange);
  } else {
#pragma unroll
    for (int s = 0; s < kSub; ++s) store_strip<kStore, kN>(p, tile, first_strip + s, acc[s]);
  }
}

/// Picks the narrowest shape that holds the tile's rows.
template <typename S, Store kStore, int kN, int... kWider>
__device__ __forceinline__ void consume_narrowest(const Product& p, const Ring& ring,
                                                  const Tile& tile, std::uint32_t& step,
                                                  const Exchange& exchange) {
  if constexpr (sizeof...(kWider) == 0) {
    consume_tile<S, kStore, kN>(p, ring, tile, step, exchange);
  } else if (tile.rows <= kN) {
    consume_tile<S, kStore, kN>(p, ring, tile, step, exchange);
  } else {
    consume_narrowest<S, kStore, kWider...>(p, ring, tile, step, exchange);
  }
}

template <typename S, Store kStore>
__global__ __cluster_dims__(S::kCluster, 1, 1)
    __launch_bounds__(S::kThreads, 1) void product_fp8_kernel(const __grid_constant__ Product p) {
  extern __shared__ std::byte dynamic[];
  __shared__ alignas(8) std::uint64_t barriers[2 * S::kStages + 1];
  __shared__ int counts[kMaxGroups];
  __shared__ int starts[kMaxGroups + 2];
  __shared__ std::uint8_t orders[kOrdered<S> ? kMaxGroups : 1];
  std::uint8_t* order = kOrdered<S> ? orders : nullptr;
  __shared__ alignas(8) float exchange[kExchange<S, kStore>];
  const int row_tiles = p.weight_rows / (S::kTileRows * S::kCluster);
  const Ring ring{(shared_address(dynamic) + 1023U) & ~1023U, shared_address(barriers),
                  shared_address(barriers + S::kStages)};
  const std::uint32_t exchanged = shared_address(barriers + 2 * S::kStages);
  if (!p.early) wait_for_previous();
  if (threadIdx.x < 32) count_tiles(p, row_tiles, S::kMaxN, counts, starts, order);
  if (threadIdx.x == 32) {
    for (int s = 0; s < S::kStages; ++s) {
      barrier_init(ring.full + s * 8, 1);
      barrier_init(ring.empty + s * 8, S::kConsumerWarps * S::kCluster);
    }
    barrier_init(exchanged, kBlockWarps);
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
    if constexpr (S::kConsumers > 1) asm volatile("setmaxnreg.dec.sync.aligned.u32 72;");
    if (threadIdx.x == 0) produce<S>(p, ring, walk);
  } else {
    if constexpr (S::kConsumers > 1) asm volatile("setmaxnreg.inc.sync.aligned.u32 216;");
    std::uint32_t step = 0;
    Tile tile;
    // Two halves in turn: who writes magnitudes of a tile has passed the barrier of the last one,
    // which the others reached after reading those of the one before.
    for (std::uint32_t tiles = 0; walk.next(tile); ++tiles) {
      const Exchange mine{exchange + tiles % 2 * (kExchange<S, kStore> / 2), exchanged, tiles & 1};
      if constexpr (S::kMaxN == 16) {
        consume_narrowest<S, kStore, 16>(p, ring, tile, step, mine);
      } else if constexpr (S::kMaxN == 64) {
        consume_narrowest<S, kStore, 16, 32, 64>(p, ring, tile, step, mine);
      } else {
        consume_narrowest<S, kStore, 16, 32, 64, 96, 128>(p, ring, tile, step, mine);
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
      product_fp8_kernel<S, kStore>, cudaFuncAttributeMaxDynamicSharedMemorySize, S::kSharedBytes);
  if (ready != cudaSuccess) return ready;
  const int blocks = multiprocessors() / S::kCluster * S::kCluster;
  return launch_overlapped(product_fp8_kernel<S, kStore>, blocks, S::kThreads, S::kSharedBytes,
                           stream, p);
}

template <int kSub, int kMaxN, int kCluster, int kConsumers = 2>
using Scaled = Shape<kSub, kMaxN, kCluster, true, kConsumers>;

template <Store kStore>
cudaError_t launch_by_rows(const Product& p, cudaStream_t stream) {
  const int mean = p.counts != nullptr ? p.rows / p.groups : p.rows;
  if (p.rows <= 16) {
    if constexpr (kStore == Store::swiglu_tiled) {
      return launch<Scaled<2, 16, 2, 1>, kStore>(p, stream);
    } else {
      return launch<Scaled<1, 16, 1, 1>, kStore>(p, stream);
    }
  }
  if (mean <= 8) {
    // Small tiles spread best over the multiprocessors, but SwiGLU needs 256 rows of weights.
    constexpr int kSub = kStore == Store::swiglu_tiled ? 2 : 1;
    return launch<Scaled<kSub, 64, 1>, kStore>(p, stream);
  }
  if (mean <= 128 || p.weight_rows % 512 != 0) return launch<Scaled<2, 128, 1>, kStore>(p, stream);
  return launch<Scaled<2, 128, 2>, kStore>(p, stream);
}

}  // namespace

cudaError_t product_fp8(const Product& p, cudaStream_t stream) {
  if (p.rows == 0) return cudaSuccess;
  if (p.groups < 1 || p.groups > kMaxGroups || p.cols % kAtomCols8 != 0 ||
      p.weight_rows % kPackedRows != 0 || p.capacity % kAtomRows != 0) {
    return cudaErrorInvalidValue;
  }
  switch (p.store) {
    case Store::swiglu_tiled:
      return launch_by_rows<Store::swiglu_tiled>(p, stream);
    case Store::bf16_rows:
      return launch_by_rows<Store::bf16_rows>(p, stream);
    case Store::f32_rows:
      return launch_by_rows<Store::f32_rows>(p, stream);
    case Store::silu_bf16_rows:
      break;
  }
  return cudaErrorInvalidValue;
}

cudaError_t experts_fp8(const void* x, bool x_is_f32, int routes, const RouteGroups& groups,
                        const Experts& e, void* out, cudaStream_t stream) {
  const cudaError_t status = gather_tiled_fp8(x, x_is_f32, e.hidden, groups, e.tiled_x, stream);
  if (status != cudaSuccess) return status;
  return expert_products(product_fp8, routes, groups, e, out, stream);
}

}  // namespace fulgur::kernels::cuda
