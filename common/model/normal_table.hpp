// Normal numbers from 16 random bits each: a table of the 65,536 midpoint quantiles of the normal
// distribution. Filled with +, *, / alone, so the same bits come out on every machine (libm's log
// and sin differ between processors), and fast: four numbers for one 64-bit draw.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace fulgur::model {

class NormalTable {
 public:
  static constexpr std::size_t kSize = 65536;

  /// Built on first use; thread-safe.
  static const NormalTable& instance();

  /// The quantile at (index + 1/2) / 65536; within +-4.32.
  double operator[](std::uint16_t index) const { return quantiles_[index]; }

 private:
  NormalTable();
  std::vector<double> quantiles_;
};

}  // namespace fulgur::model
