// What the bf16 products share (product.cu: fixed sums, product_free.cu: free ones): a block's
// shared memory, and the choice of tiles. The kernels are apart, with the multiplying warps' loop
// in each: nothing that free sums need may cost the other a register.
#pragma once

#include <type_traits>

#include "kernels/cuda/device.hpp"
#include "kernels/cuda/staged_store.cuh"
#include "kernels/cuda/tiles.cuh"
#include "kernels/cuda/wgmma.cuh"

namespace fulgur::kernels::cuda {

/// As product(), with free sums. product() has checked the call.
cudaError_t product_free(const Product& product, cudaStream_t stream);

/// Dynamic shared memory: stages, staging, counts, starts and order of groups, barriers. All of it
/// is dynamic, because wide tiles leave less than 1 KiB: static memory before the stages would be
/// padded to their alignment.
template <typename S, Store kStore>
struct SharedMemory {
  static constexpr int kStaging = S::kStages * S::kStageBytes;
  static constexpr int kCounts = kStaging + (kIsStaged<S, kStore> ? kStagingBytes : 0);
  static constexpr int kStarts = kCounts + kMaxGroups * 4;
  static constexpr int kOrder = kStarts + (kMaxGroups + 2) * 4;
  static constexpr int kBarriers = kOrder + kMaxGroups;
  static constexpr int kBytes = kBarriers + (2 * S::kStages + 2) * 8;
  static_assert(kBarriers % 8 == 0 && kBytes <= 227 * 1024, "a block has 227 KiB");
};

/// Calls launch(shape, store) with values of the types that suit the call.
template <typename Launch>
cudaError_t with_shape(const Product& p, const Launch& launch) {
  // Few rows a group: small tiles spread best over the multiprocessors. Up to 128: tall tiles, so
  // that activations cost little L2 traffic. More: wide tiles keep the tensor cores busy.
  const int mean = p.counts != nullptr ? p.rows / p.groups : p.rows;
  // One weight whose tiles of 256 rows would leave most multiprocessors idle: lower ones. (6144 x
  // 8192 by 64 and 128 rows 0.046 and 0.057 ms instead of 0.065 and 0.087.)
  const bool is_small = p.counts == nullptr && p.weight_rows / 128 <= multiprocessors() / 2;
  const auto by_rows = [&](auto store) {
    if (p.rows <= 16) return launch(Shape<1, 16, 1, false, 1>{}, store);
    if (is_small && p.rows <= 256) return launch(Shape<1, 128, 1>{}, store);
    if (mean <= 8) return launch(Shape<1, 64, 1>{}, store);
    if (mean <= 128) return launch(Shape<2, 128, 1>{}, store);
    return launch(Shape<1, 256, 2>{}, store);
  };
  switch (p.store) {
    case Store::swiglu_tiled:
      return by_rows(std::integral_constant<Store, Store::swiglu_tiled>{});
    case Store::bf16_rows:
    case Store::silu_bf16_rows:
      return by_rows(std::integral_constant<Store, Store::bf16_rows>{});
    case Store::f32_rows:
      return by_rows(std::integral_constant<Store, Store::f32_rows>{});
  }
  return cudaErrorInvalidValue;
}

}  // namespace fulgur::kernels::cuda
