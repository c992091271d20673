// Order of the sums of a matrix product. Plain data only: the vector code includes it (see
// kernel_table.hpp).
#pragma once

#include <cstdint>

namespace fulgur::kernels {

/// How an element of a product of bf16 rows and bf16 weights is summed; both are exact
/// instructions of some processor, neither depends on the other rows.
enum class ProductOrder : std::uint8_t {
  /// Pairs of k ascending, in a pair the odd k first: vdpbf16ps, and fused multiply-adds anywhere.
  pairs,
  /// For each 32 k, from zero: a chain over the even k and one over the odd k, ascending; their sum
  /// is added to the total: tdpbf16ps. Float32 operands are summed by pairs all the same.
  tiles,
};

/// k of one instruction in the order `tiles`.
inline constexpr unsigned kOrderTile = 32;

}  // namespace fulgur::kernels
