// The named shapes of synth.hpp.
#include <cmath>

#include "common/model/synth.hpp"

namespace fulgur::model {
namespace {

/// Softmax attention at every `period`-th layer, the last of each period, as in the released
/// models.
ModelConfig base_config(std::uint32_t layers, std::uint32_t period) {
  ModelConfig config;
  config.model_type = "minimax_m1";
  config.dialect = Dialect::original;
  config.layers = layers;
  for (std::uint32_t i = 0; i < layers; ++i) {
    config.attention.push_back((i + 1) % period == 0 ? AttentionKind::softmax
                                                     : AttentionKind::lightning);
  }
  const auto alpha = static_cast<float>(std::pow(2.0 * layers, 0.25));  // DeepNorm
  config.lightning_residual = config.softmax_residual = config.mlp_residual = {alpha, 1.0F};
  config.postnorm = true;
  config.rope_theta = 1e7;
  config.max_positions = 1U << 20;
  return config;
}

void set_attention(ModelConfig& config, std::uint32_t heads, std::uint32_t kv_heads,
                   std::uint32_t head_dim, std::uint32_t rotary_dim) {
  config.heads = heads;
  config.kv_heads = kv_heads;
  config.head_dim = head_dim;
  config.rotary_dim = rotary_dim;
}

void set_experts(ModelConfig& config, std::uint32_t experts, std::uint32_t per_token,
                 std::uint32_t inner) {
  config.experts = experts;
  config.experts_per_token = per_token;
  config.expert_inner = inner;
}

SynthPreset bench_1b() {
  ModelConfig config = base_config(16, 8);
  config.hidden = 1024;
  config.vocab = 8192;
  set_attention(config, 8, 2, 128, 64);
  set_experts(config, 16, 2, 1536);
  return {"bench-1b", "16 layers, 16 experts top-2, 2.6 GB: the benchmark shape", config, 6};
}

SynthPreset tiny_random() {
  ModelConfig config = base_config(4, 4);
  config.hidden = 64;
  config.vocab = 256;
  set_attention(config, 2, 1, 32, 16);
  set_experts(config, 8, 2, 32);
  return {"tiny-random", "4 layers, 8 experts, under 1 MB: for tests", config, 1};
}

SynthPreset odd() {
  ModelConfig config = base_config(5, 3);
  config.hidden = 88;
  config.vocab = 251;
  set_attention(config, 6, 3, 24, 10);
  set_experts(config, 7, 3, 36);
  config.lightning_residual = {1.75F, 0.875F};
  config.softmax_residual = {1.5F, 1.125F};
  config.mlp_residual = {2.0F, 0.75F};
  return {"odd", "6 heads, 7 experts top-3, sizes off every power of two, 2 shards", config, 2};
}

SynthPreset wide_experts() {
  ModelConfig config = base_config(3, 3);
  config.hidden = 64;
  config.vocab = 256;
  set_attention(config, 4, 2, 32, 32);
  set_experts(config, 64, 4, 256);
  return {"wide-experts", "3 layers, 64 experts top-4 of four times the hidden size", config, 3};
}

SynthPreset prenorm_tied() {
  ModelConfig config = base_config(4, 2);
  config.hidden = 96;
  config.vocab = 320;
  set_attention(config, 3, 3, 32, 32);
  set_experts(config, 4, 1, 64);
  config.lightning_residual = config.softmax_residual = config.mlp_residual = {1.0F, 1.0F};
  config.postnorm = false;
  config.tie_word_embeddings = true;
  return {"prenorm-tied", "raw residuals, tied embeddings, one expert a token", config, 1};
}

SynthPreset m1_small() {
  ModelConfig config = base_config(4, 4);
  config.hidden = 512;
  config.vocab = 2048;
  set_attention(config, 8, 1, 128, 64);
  set_experts(config, 8, 2, 256);
  return {"m1-small", "MiniMax-M1's heads and groups, 60 MB: what the sm_90 kernels take", config, 1};
}

}  // namespace

const std::vector<SynthPreset>& synth_presets() {
  static const std::vector<SynthPreset> kPresets = {bench_1b(), tiny_random(), odd(),
                                                    wide_experts(), prenorm_tied(), m1_small()};
  return kPresets;
}

}  // namespace fulgur::model
