// Who decides in which order numbers are added.
#pragma once

#include <cstdint>

namespace fulgur::kernels {

enum class Sums : std::uint8_t {
  /// k, an absolute position or a slot alone: a row has the same bits in any company (exact mode).
  fixed,
  /// The kernel, by the shape of the whole call: equal calls on equal devices have equal bits, but
  /// a row has others in other company. To measure what exact mode costs; nothing serves with it.
  free,
};

}  // namespace fulgur::kernels
