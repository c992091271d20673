// The form of a sequence's state in a shard: which layers hold what, and how large it is. Two shards
// whose shapes have the same layout() can exchange states byte by byte (invariant I4).
#pragma once

#include <cstdint>
#include <vector>

#include "common/model/model_config.hpp"
#include "kernels/include/fulgur/kernels/backend.hpp"

namespace fulgur::attention {

struct StateShape {
  struct Layer {
    model::AttentionKind kind = model::AttentionKind::lightning;
    std::uint64_t piece_bytes = 0;  ///< of one slot (lightning) or one page (softmax)
  };
  std::vector<Layer> layers;

  static StateShape of(const model::ModelConfig& config, const kernels::Backend& backend);

  /// Bytes of each layer's state after `length` tokens.
  std::vector<std::uint64_t> layer_bytes(std::uint64_t length) const;
  /// Identifies the shape; what the bytes mean beyond it is said by Register::numerics.
  std::uint64_t layout() const;
};

}  // namespace fulgur::attention
