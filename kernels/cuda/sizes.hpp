// Sizes as the fast kernels take them.
#pragma once

#include <algorithm>
#include <bit>
#include <cstddef>

#include "common/base/assert.hpp"
#include "kernels/include/fulgur/kernels/backend.hpp"

namespace fulgur::kernels::cuda {

inline int to_int(std::size_t value) {
  FULGUR_ASSERT(value <= 0x7fffffffU, "a size beyond 31 bits");
  return static_cast<int>(value);
}

/// A length of softmax attention, at least 1, rounded up so that few different ones come up, the
/// steps of a growing context above all: to whole splits, from eight on to four sizes an octave.
inline int length_bucket(int length) {
  const auto split = static_cast<unsigned>(kSoftmaxSplit);
  const unsigned splits = (static_cast<unsigned>(length) + split - 1) / split;
  const unsigned step = std::max(1U, std::bit_floor(splits - 1) / 4);
  return to_int(std::size_t{(splits + step - 1) / step * step} * split);
}

}  // namespace fulgur::kernels::cuda
