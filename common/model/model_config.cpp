#include "common/model/model_config.hpp"

#include <array>
#include <bit>
#include <cmath>

#include "common/base/assert.hpp"

namespace fulgur::model {
namespace {

/// Slopes of `count` heads when count is a power of two.
std::vector<double> geometric_slopes(std::uint32_t count) {
  std::vector<double> slopes(count);
  for (std::uint32_t h = 0; h < count; ++h) slopes[h] = std::pow(2.0, -8.0 * (h + 1.0) / count);
  return slopes;
}

/// The ALiBi rule: the slopes of the largest power of two P <= count, then every other one of 2P's.
std::vector<double> alibi_slopes(std::uint32_t count) {
  const std::uint32_t power = std::bit_floor(count);
  std::vector<double> slopes = geometric_slopes(power);
  const std::vector<double> finer = geometric_slopes(2 * power);
  for (std::uint32_t h = 0; slopes.size() < count; h += 2) slopes.push_back(finer[h]);
  return slopes;
}

}  // namespace

std::string_view to_string(AttentionKind kind) {
  return kind == AttentionKind::lightning ? "lightning" : "softmax";
}

std::string_view to_string(Dialect dialect) {
  return dialect == Dialect::original ? "original" : "transformers";
}

std::vector<float> ModelConfig::decay_rates(std::uint32_t layer) const {
  FULGUR_ASSERT(layer < layers, "layer inside the model");
  const bool original = dialect == Dialect::original;
  const std::vector<double> slopes = original ? alibi_slopes(heads) : geometric_slopes(heads);
  // One layer: the original formula divides by zero; its decay is that of layer 0 elsewhere.
  const double last = original ? std::max(1.0, layers - 1.0) : layers - 1.0 + 1e-5;
  const double factor = 1.0 - layer / last + 1e-5;
  std::vector<float> rates;
  rates.reserve(slopes.size());
  for (const double slope : slopes) rates.push_back(static_cast<float>(slope * factor));
  return rates;
}

std::uint32_t ModelConfig::layers_of(AttentionKind kind) const {
  std::uint32_t count = 0;
  for (const AttentionKind each : attention) count += each == kind ? 1 : 0;
  return count;
}

std::uint64_t ModelConfig::attention_params(AttentionKind kind) const {
  const std::uint64_t width = attention_width();
  if (kind == AttentionKind::lightning) return width * hidden * 5 + width;
  return width * hidden * 2 + std::uint64_t{kv_width()} * hidden * 2;
}

ModelShape ModelConfig::shape() const {
  return {hidden, heads, kv_heads, head_dim, experts, experts_per_token, expert_inner};
}

std::uint64_t ModelConfig::attention_params() const {
  return layers_of(AttentionKind::lightning) * attention_params(AttentionKind::lightning) +
         layers_of(AttentionKind::softmax) * attention_params(AttentionKind::softmax);
}

std::uint64_t ModelConfig::expert_params() const {
  return std::uint64_t{3} * hidden * expert_inner;
}

std::uint64_t ModelConfig::router_params() const {
  return std::uint64_t{layers} * experts * hidden;
}

std::uint64_t ModelConfig::norm_params() const { return (std::uint64_t{2} * layers + 1) * hidden; }

std::uint64_t ModelConfig::embedding_params() const { return std::uint64_t{vocab} * hidden; }

std::uint64_t ModelConfig::head_params() const {
  return tie_word_embeddings ? 0 : embedding_params();
}

std::uint64_t ModelConfig::total_params() const {
  return attention_params() + std::uint64_t{layers} * experts * expert_params() + router_params() +
         norm_params() + embedding_params() + head_params();
}

std::uint64_t ModelConfig::active_params() const {
  return attention_params() + std::uint64_t{layers} * experts_per_token * expert_params() +
         router_params() + norm_params();
}

std::uint64_t ModelConfig::state_bytes_per_sequence() const {
  return std::uint64_t{layers_of(AttentionKind::lightning)} * heads * head_dim * head_dim *
         sizeof(float);
}

std::uint64_t ModelConfig::kv_bytes_per_token() const {
  return std::uint64_t{layers_of(AttentionKind::softmax)} * 2 * kv_width() * 2;
}

}  // namespace fulgur::model
