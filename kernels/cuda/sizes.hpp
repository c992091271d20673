// Sizes as the fast kernels take them.
#pragma once

#include <cstddef>

#include "common/base/assert.hpp"

namespace fulgur::kernels::cuda {

inline int to_int(std::size_t value) {
  FULGUR_ASSERT(value <= 0x7fffffffU, "a size beyond 31 bits");
  return static_cast<int>(value);
}

}  // namespace fulgur::kernels::cuda
