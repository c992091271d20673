#include "services/attention/state_shape.hpp"

#include "common/base/rng.hpp"

namespace fulgur::attention {

StateShape StateShape::of(const model::ModelConfig& config, const kernels::Backend& backend) {
  StateShape shape;
  for (std::uint32_t index = 0; index < config.layers; ++index) {
    const model::AttentionKind kind = config.attention[index];
    std::uint64_t bytes = 0;
    if (kind == model::AttentionKind::lightning) {
      bytes = backend.lightning_slot_bytes(
          {config.heads, config.head_dim, config.decay_rates(index)});
    } else {
      bytes = backend.softmax_page_bytes({config.heads, config.kv_heads, config.head_dim,
                                          config.rotary_dim, config.rope_theta});
    }
    shape.layers.push_back({kind, bytes});
  }
  return shape;
}

std::vector<std::uint64_t> StateShape::layer_bytes(std::uint64_t length) const {
  const std::uint64_t pages = (length + kernels::kPageTokens - 1) / kernels::kPageTokens;
  std::vector<std::uint64_t> bytes;
  bytes.reserve(layers.size());
  for (const Layer& layer : layers) {
    const bool lightning = layer.kind == model::AttentionKind::lightning;
    bytes.push_back(lightning ? layer.piece_bytes : layer.piece_bytes * pages);
  }
  return bytes;
}

std::uint64_t StateShape::layout() const {
  std::uint64_t hash = mix64(kernels::kLightningBlock ^ (std::uint64_t{kernels::kPageTokens} << 32));
  for (const Layer& layer : layers) {
    hash = mix64(hash ^ static_cast<std::uint64_t>(layer.kind));
    hash = mix64(hash ^ layer.piece_bytes);
  }
  return hash;
}

}  // namespace fulgur::attention
