// What Backend::draw() takes and gives.
#pragma once

#include <cstdint>

namespace fulgur::kernels {

/// How the next token of one row of logits is chosen.
struct Draw {
  std::uint32_t row = 0;
  float scale = 0;     ///< 1 / temperature; 0: the most likely token, ties to the lower id
  double uniform = 0;  ///< in [0, 1): where in the distribution the draw falls, ids ascending
};

struct Drawn {
  std::uint32_t token;
  float logprob;  ///< natural, of the unmodified distribution
};

/// What draw() can do with this backend's bits: nothing; find the most likely token, which no order
/// of sums changes; all.
enum class DrawSupport : std::uint8_t { none, most_likely, all };

}  // namespace fulgur::kernels
