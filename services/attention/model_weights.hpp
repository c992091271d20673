// The weights a shard holds: everything but the experts, packed once for the backend.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "common/base/status.hpp"
#include "common/model/checkpoint.hpp"
#include "kernels/include/fulgur/kernels/backend.hpp"

namespace fulgur::attention {

/// A float32 vector in backend memory.
struct Vector {
  std::shared_ptr<std::byte> memory;
  const float* data() const { return reinterpret_cast<const float*>(memory.get()); }
};

struct LayerWeights {
  model::AttentionKind kind = model::AttentionKind::lightning;
  Vector norm_in;    ///< [hidden]
  Vector norm_post;  ///< [hidden]
  std::unique_ptr<kernels::Matrix> router;  ///< [experts, hidden] float32
  std::unique_ptr<kernels::Matrix> qkv;     ///< lightning [3 W, hidden]; softmax [W + 2 KV, hidden]
  std::unique_ptr<kernels::Matrix> out;     ///< [hidden, W]
  std::unique_ptr<kernels::Matrix> gate;    ///< lightning only: [W, hidden]
  Vector attention_norm;                    ///< lightning only: [W]
};

struct ModelWeights {
  std::unique_ptr<kernels::Matrix> embedding;  ///< [vocab, hidden]
  std::unique_ptr<kernels::Matrix> lm_head;    ///< [vocab, hidden]
  Vector final_norm;                           ///< [hidden]
  std::vector<LayerWeights> layers;
  /// Tokens whose embedding row is all zero: never trained, never sampled.
  std::vector<std::uint32_t> banned;
  std::uint64_t bytes = 0;  ///< packed matrices

  static Result<ModelWeights> load(const model::Checkpoint& checkpoint, kernels::Backend& backend);

 private:
  static Result<ModelWeights> load_all(const model::Checkpoint& checkpoint,
                                       kernels::Backend& backend);
};

}  // namespace fulgur::attention
