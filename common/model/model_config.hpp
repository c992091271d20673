// The hyper-parameters of a MiniMax-Text-01 / MiniMax-M1 class model in one vocabulary, read from
// either dialect of config.json: the original one (attn_type_list, layernorm_*_alpha, rotary_dim)
// and the transformers one (layer_types, *_attn_alpha_factor, rope_parameters).
// A plain value: copy it, share it between threads.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/model_shape.hpp"
#include "common/base/status.hpp"

namespace fulgur::model {

enum class AttentionKind : std::uint8_t { lightning, softmax };

/// Which config.json vocabulary was read; the two differ in their decay rule too.
enum class Dialect : std::uint8_t { original, transformers };

std::string_view to_string(AttentionKind kind);
std::string_view to_string(Dialect dialect);

/// A sub-layer's output is alpha * residual + beta * branch.
struct Residual {
  float alpha = 1;
  float beta = 1;
};

struct ModelConfig {
  std::string model_type;  ///< as in the file: "minimax_m1", "minimax_text_01", "minimax", …
  Dialect dialect = Dialect::original;

  std::uint32_t layers = 0;
  std::uint32_t hidden = 0;
  std::uint32_t heads = 0;
  std::uint32_t kv_heads = 0;    ///< softmax layers only; divides heads
  std::uint32_t head_dim = 0;    ///< heads * head_dim may differ from hidden
  std::uint32_t rotary_dim = 0;  ///< leading dims of a softmax head that rotate; even, <= head_dim
  std::uint32_t experts = 0;     ///< per layer
  std::uint32_t experts_per_token = 0;
  std::uint32_t expert_inner = 0;  ///< rows of an expert's gate and up matrices
  std::uint32_t vocab = 0;
  std::uint64_t max_positions = 0;

  std::vector<AttentionKind> attention;  ///< [layers]
  float rms_eps = 1e-5F;
  float lightning_norm_eps = 1e-6F;  ///< the reference code's class default, not rms_eps
  double rope_theta = 1e6;
  Residual lightning_residual;
  Residual softmax_residual;
  Residual mlp_residual;
  bool postnorm = false;  ///< true: the residual is the normed input, not the raw one
  bool tie_word_embeddings = false;
  std::vector<std::uint32_t> eos_ids;  ///< may be empty: then the tokenizer names the stop token
  std::optional<std::uint32_t> bos_id;

  /// Reads DIR/config.json and, when present, DIR/generation_config.json (whose token ids win).
  /// invalid_argument, or not_found without config.json: one line naming the file and the key.
  static Result<ModelConfig> load(const std::string& directory);
  /// The same from text; `file` names it in messages.
  static Result<ModelConfig> parse(std::string_view text, const std::string& file);

  /// Decay rate r of each lightning head in `layer` [heads]: the state is multiplied by exp(-r)
  /// a token. The original dialect uses the ALiBi rule when heads is no power of two.
  std::vector<float> decay_rates(std::uint32_t layer) const;

  /// Width of the concatenated heads, heads * head_dim.
  std::uint32_t attention_width() const { return heads * head_dim; }
  std::uint32_t kv_width() const { return kv_heads * head_dim; }
  std::uint32_t layers_of(AttentionKind kind) const;

  /// What the kernels want to know.
  ModelShape shape() const;

  // Parameter counts.
  std::uint64_t attention_params(AttentionKind kind) const;  ///< one layer's, its norm included
  std::uint64_t attention_params() const;                    ///< all layers'
  std::uint64_t expert_params() const;                       ///< one expert's
  std::uint64_t router_params() const;                       ///< all layers'
  std::uint64_t norm_params() const;  ///< RMSNorms of the residual stream, the final one included
  std::uint64_t embedding_params() const;
  std::uint64_t head_params() const;  ///< 0 when tied to the embedding
  std::uint64_t total_params() const;
  /// Touched by one token: everything but embedding and head, with experts_per_token experts.
  std::uint64_t active_params() const;

  /// Lightning state of one sequence: fp32 [lightning layers, heads, head_dim, head_dim].
  std::uint64_t state_bytes_per_sequence() const;
  /// Keys and values of one token in all softmax layers, bf16.
  std::uint64_t kv_bytes_per_token() const;
};

}  // namespace fulgur::model
