// config.json and generation_config.json to ModelConfig, both dialects, with the defaults of the
// configuration classes that wrote them. Whatever would change the arithmetic and is not
// implemented (shared experts, scaled rotary positions, sliding windows) is refused here by name.
#include <algorithm>
#include <array>
#include <limits>

#include "common/model/file.hpp"
#include "common/model/json_file.hpp"
#include "common/model/model_config.hpp"

namespace fulgur::model {
namespace {

constexpr std::size_t kConfigBytesMax = 16U << 20;
// Wide enough for any model of this class and narrow enough that no count overflows 64 bits.
constexpr std::uint64_t kLayersMax = 1024;
constexpr std::uint64_t kWidthMax = 1U << 18;
constexpr std::uint64_t kHeadsMax = 4096;
constexpr std::uint64_t kHeadDimMax = 4096;
constexpr std::uint64_t kExpertsMax = 1U << 14;
constexpr std::uint64_t kReplicasMax = 1U << 18;  // layers * experts: bounds the tensor names
constexpr std::uint64_t kVocabMax = 1U << 24;
constexpr std::uint64_t kPositionsMax = std::uint64_t{1} << 40;
constexpr std::size_t kStopIdsMax = 64;

Status read_u32(const JsonObject& json, std::string_view key, std::uint64_t low, std::uint64_t high,
                std::uint32_t& out, std::optional<std::uint64_t> fallback = std::nullopt) {
  FULGUR_ASSIGN_OR_RETURN(const std::uint64_t value, json.integer(key, low, high, fallback));
  out = static_cast<std::uint32_t>(value);
  return Status::ok();
}

Status read_dialect(const JsonObject& json, ModelConfig& config) {
  FULGUR_ASSIGN_OR_RETURN(config.model_type, json.text("model_type"));
  static constexpr std::array<std::string_view, 4> kOriginal = {"minimax_m1", "minimax_text_01",
                                                                "MiniMaxM1", "MiniMaxText01"};
  if (config.model_type == "minimax") {
    config.dialect = Dialect::transformers;
  } else if (std::find(kOriginal.begin(), kOriginal.end(), config.model_type) != kOriginal.end()) {
    config.dialect = Dialect::original;
  } else {
    return json.bad("model_type", fmt::format("\"{}\" is not supported; expected minimax_m1, "
                                              "minimax_text_01 or minimax",
                                              printable(config.model_type)));
  }
  return Status::ok();
}

/// Sizes that both dialects name alike. The large ones have no default here on purpose: a file
/// without them is damaged, whatever the class defaults say.
Status read_sizes(const JsonObject& json, ModelConfig& config) {
  FULGUR_RETURN_IF_ERROR(read_u32(json, "num_hidden_layers", 1, kLayersMax, config.layers));
  FULGUR_RETURN_IF_ERROR(read_u32(json, "hidden_size", 1, kWidthMax, config.hidden));
  FULGUR_RETURN_IF_ERROR(read_u32(json, "num_attention_heads", 1, kHeadsMax, config.heads));
  const bool null_kv_heads = json.contains("num_key_value_heads");
  FULGUR_RETURN_IF_ERROR(read_u32(json, "num_key_value_heads", 1, kHeadsMax, config.kv_heads,
                                  null_kv_heads ? config.heads : 8));
  FULGUR_RETURN_IF_ERROR(read_u32(json, "intermediate_size", 1, kWidthMax, config.expert_inner));
  FULGUR_RETURN_IF_ERROR(read_u32(json, "num_local_experts", 1, kExpertsMax, config.experts));
  FULGUR_RETURN_IF_ERROR(
      read_u32(json, "num_experts_per_tok", 1, kExpertsMax, config.experts_per_token));
  FULGUR_RETURN_IF_ERROR(read_u32(json, "vocab_size", 1, kVocabMax, config.vocab));
  FULGUR_ASSIGN_OR_RETURN(
      config.max_positions,
      json.integer("max_position_embeddings", 1, kPositionsMax, std::uint64_t{4096} * 32));
  if (!json.find("head_dim") && config.hidden % config.heads != 0) {
    return json.bad("head_dim", "is missing and hidden_size is no multiple of the heads");
  }
  return read_u32(json, "head_dim", 1, kHeadDimMax, config.head_dim, config.hidden / config.heads);
}

Status read_numbers(const JsonObject& json, ModelConfig& config) {
  FULGUR_ASSIGN_OR_RETURN(const double eps, json.number("rms_norm_eps", 0, 1, 1e-5));
  config.rms_eps = static_cast<float>(eps);
  FULGUR_ASSIGN_OR_RETURN(const double norm_eps, json.number("lightning_norm_eps", 0, 1, 1e-6));
  config.lightning_norm_eps = static_cast<float>(norm_eps);
  FULGUR_ASSIGN_OR_RETURN(config.tie_word_embeddings, json.boolean("tie_word_embeddings", false));
  FULGUR_ASSIGN_OR_RETURN(config.postnorm, json.boolean("postnorm", false));
  if (config.dialect == Dialect::transformers) config.postnorm = true;
  return Status::ok();
}

Status read_residual(const JsonObject& json, std::string_view alpha_key, std::string_view beta_key,
                     Residual& out) {
  FULGUR_ASSIGN_OR_RETURN(const double alpha, json.number(alpha_key, -1e6, 1e6, 1.0));
  FULGUR_ASSIGN_OR_RETURN(const double beta, json.number(beta_key, -1e6, 1e6, 1.0));
  out = {static_cast<float>(alpha), static_cast<float>(beta)};
  return Status::ok();
}

Status read_residuals(const JsonObject& json, ModelConfig& config) {
  if (config.dialect == Dialect::original) {
    FULGUR_RETURN_IF_ERROR(read_residual(json, "layernorm_linear_attention_alpha",
                                         "layernorm_linear_attention_beta",
                                         config.lightning_residual));
    FULGUR_RETURN_IF_ERROR(read_residual(json, "layernorm_full_attention_alpha",
                                         "layernorm_full_attention_beta", config.softmax_residual));
    return read_residual(json, "layernorm_mlp_alpha", "layernorm_mlp_beta", config.mlp_residual);
  }
  FULGUR_RETURN_IF_ERROR(read_residual(json, "linear_attn_alpha_factor", "linear_attn_beta_factor",
                                       config.lightning_residual));
  FULGUR_RETURN_IF_ERROR(read_residual(json, "full_attn_alpha_factor", "full_attn_beta_factor",
                                       config.softmax_residual));
  return read_residual(json, "mlp_alpha_factor", "mlp_beta_factor", config.mlp_residual);
}

Result<AttentionKind> attention_kind(const JsonObject& json, std::string_view key,
                                     simdjson::dom::element element, bool original) {
  if (original) {
    std::uint64_t value = 0;
    if (element.get(value) == simdjson::SUCCESS && value <= 1) {
      return value == 1 ? AttentionKind::softmax : AttentionKind::lightning;
    }
    return json.bad(key, "must hold only 0 (lightning) and 1 (softmax)");
  }
  std::string_view value;
  if (element.get(value) == simdjson::SUCCESS) {
    if (value == "linear_attention") return AttentionKind::lightning;
    if (value == "full_attention") return AttentionKind::softmax;
  }
  return json.bad(key, "must hold only \"linear_attention\" and \"full_attention\"");
}

Status read_attention(const JsonObject& json, ModelConfig& config) {
  const bool original = config.dialect == Dialect::original;
  const std::string_view key = original ? "attn_type_list" : "layer_types";
  const auto element = json.find(key);
  if (!element && original) return json.bad(key, "is missing");
  if (!element) {  // the configuration class alternates, starting with softmax
    for (std::uint32_t i = 0; i < config.layers; ++i) {
      config.attention.push_back(i % 2 == 0 ? AttentionKind::softmax : AttentionKind::lightning);
    }
    return Status::ok();
  }
  simdjson::dom::array list;
  if (element->get(list) != simdjson::SUCCESS) return json.bad(key, "must be a list");
  if (list.size() != config.layers) {
    return json.bad(key, fmt::format("has {} entries for {} layers", list.size(), config.layers));
  }
  for (const simdjson::dom::element each : list) {
    FULGUR_ASSIGN_OR_RETURN(const AttentionKind kind, attention_kind(json, key, each, original));
    config.attention.push_back(kind);
  }
  return Status::ok();
}

/// Only plain rotary positions are implemented.
Status refuse_scaled_rope(const JsonObject& json, std::string_view key) {
  FULGUR_ASSIGN_OR_RETURN(const auto rope, json.object(key));
  if (!rope) return Status::ok();
  FULGUR_ASSIGN_OR_RETURN(const std::string old_name, rope->text("type", "default"));
  FULGUR_ASSIGN_OR_RETURN(const std::string type, rope->text("rope_type", old_name));
  if (type != "default") {
    return rope->bad("rope_type", fmt::format("\"{}\" is not supported", printable(type)));
  }
  return Status::ok();
}

/// theta and the rotated width. The transformers class keeps them in rope_parameters; files from
/// before 5.0 have rope_theta at the top, and converted ones may still carry rotary_dim there.
Status read_rope(const JsonObject& json, ModelConfig& config) {
  FULGUR_RETURN_IF_ERROR(refuse_scaled_rope(json, "rope_scaling"));
  FULGUR_RETURN_IF_ERROR(refuse_scaled_rope(json, "rope_parameters"));
  FULGUR_ASSIGN_OR_RETURN(double theta, json.number("rope_theta", 1, 1e15, 1e6));
  FULGUR_ASSIGN_OR_RETURN(double factor, json.number("partial_rotary_factor", 0, 1, 0.0));
  FULGUR_ASSIGN_OR_RETURN(const auto rope, json.object("rope_parameters"));
  if (rope) {
    FULGUR_ASSIGN_OR_RETURN(theta, rope->number("rope_theta", 1, 1e15, theta));
    FULGUR_ASSIGN_OR_RETURN(factor, rope->number("partial_rotary_factor", 0, 1, factor));
  }
  config.rope_theta = theta;
  if (factor > 0) {
    config.rotary_dim = static_cast<std::uint32_t>(config.head_dim * factor);
    if (config.rotary_dim >= 2 && config.rotary_dim % 2 == 0) return Status::ok();
    return json.bad("partial_rotary_factor",
                    fmt::format("rotates {} dims of {}: must be even and at least 2",
                                config.rotary_dim, config.head_dim));
  }
  FULGUR_RETURN_IF_ERROR(
      read_u32(json, "rotary_dim", 2, kHeadDimMax, config.rotary_dim, config.head_dim));
  if (config.rotary_dim % 2 != 0 || config.rotary_dim > config.head_dim) {
    return json.bad("rotary_dim", fmt::format("is {}: must be even and at most head_dim {}",
                                              config.rotary_dim, config.head_dim));
  }
  return Status::ok();
}

Status check_consistency(const JsonObject& json, const ModelConfig& config) {
  if (config.heads % config.kv_heads != 0) {
    return json.bad("num_key_value_heads", fmt::format("{} does not divide num_attention_heads {}",
                                                       config.kv_heads, config.heads));
  }
  if (config.experts_per_token > config.experts) {
    return json.bad("num_experts_per_tok", fmt::format("{} exceeds num_local_experts {}",
                                                       config.experts_per_token, config.experts));
  }
  if (std::uint64_t{config.layers} * config.experts > kReplicasMax) {
    return json.bad("num_local_experts", fmt::format("times the layers exceeds {}", kReplicasMax));
  }
  return Status::ok();
}

Status refuse_unsupported(const JsonObject& json) {
  if (const auto shared = json.find("shared_intermediate_size")) {
    std::uint64_t value = 0;
    if (shared->get(value) != simdjson::SUCCESS || value != 0) {
      return json.bad("shared_intermediate_size", "must be 0: shared experts are not supported");
    }
  }
  FULGUR_ASSIGN_OR_RETURN(const std::string act, json.text("hidden_act", "silu"));
  if (act != "silu" && act != "swish") {
    return json.bad("hidden_act",
                    fmt::format("\"{}\" is not supported; expected silu", printable(act)));
  }
  if (json.find("sliding_window")) return json.bad("sliding_window", "is not supported");
  if (json.find("quantization_config")) {
    return json.bad("quantization_config", "is not supported; weights must be bf16, f16 or f32");
  }
  return Status::ok();
}

Result<std::uint32_t> token_id(const JsonObject& json, std::string_view key,
                               simdjson::dom::element element, std::uint32_t vocab) {
  std::uint64_t value = 0;
  if (element.get(value) != simdjson::SUCCESS || value >= vocab) {
    return json.bad(key, fmt::format("must hold token ids below the vocabulary size {}", vocab));
  }
  return static_cast<std::uint32_t>(value);
}

/// A token id, a list of them, or null; an absent key leaves `out` as it is.
Status read_token_ids(const JsonObject& json, std::string_view key, std::uint32_t vocab,
                      std::vector<std::uint32_t>& out) {
  if (!json.contains(key)) return Status::ok();
  out.clear();
  const auto element = json.find(key);
  if (!element) return Status::ok();
  simdjson::dom::array list;
  if (element->get(list) != simdjson::SUCCESS) {
    FULGUR_ASSIGN_OR_RETURN(const std::uint32_t id, token_id(json, key, *element, vocab));
    out.push_back(id);
    return Status::ok();
  }
  if (list.size() > kStopIdsMax) {
    return json.bad(key, fmt::format("lists more than {} ids", kStopIdsMax));
  }
  for (const simdjson::dom::element each : list) {
    FULGUR_ASSIGN_OR_RETURN(const std::uint32_t id, token_id(json, key, each, vocab));
    if (std::find(out.begin(), out.end(), id) == out.end()) out.push_back(id);
  }
  return Status::ok();
}

Status read_special_tokens(const JsonObject& json, ModelConfig& config) {
  FULGUR_RETURN_IF_ERROR(read_token_ids(json, "eos_token_id", config.vocab, config.eos_ids));
  std::vector<std::uint32_t> bos;
  if (config.bos_id) bos.push_back(*config.bos_id);
  FULGUR_RETURN_IF_ERROR(read_token_ids(json, "bos_token_id", config.vocab, bos));
  config.bos_id = bos.empty() ? std::nullopt : std::optional(bos.front());
  return Status::ok();
}

/// The transformers class sets 1 and 2 when the file has no such keys; the original has neither.
void default_special_tokens(ModelConfig& config) {
  if (config.dialect != Dialect::transformers) return;
  if (config.vocab > 1) config.bos_id = 1;
  if (config.vocab > 2) config.eos_ids = {2};
}

Result<ModelConfig> read_config(const JsonObject& json) {
  ModelConfig config;
  FULGUR_RETURN_IF_ERROR(read_dialect(json, config));
  FULGUR_RETURN_IF_ERROR(read_sizes(json, config));
  FULGUR_RETURN_IF_ERROR(read_numbers(json, config));
  FULGUR_RETURN_IF_ERROR(read_residuals(json, config));
  FULGUR_RETURN_IF_ERROR(read_attention(json, config));
  FULGUR_RETURN_IF_ERROR(read_rope(json, config));
  FULGUR_RETURN_IF_ERROR(check_consistency(json, config));
  FULGUR_RETURN_IF_ERROR(refuse_unsupported(json));
  default_special_tokens(config);
  FULGUR_RETURN_IF_ERROR(read_special_tokens(json, config));
  return config;
}

}  // namespace

Result<ModelConfig> ModelConfig::parse(std::string_view text, const std::string& file) {
  FULGUR_ASSIGN_OR_RETURN(const JsonFile json, JsonFile::parse(text, file));
  return read_config(json.root());
}

Result<ModelConfig> ModelConfig::load(const std::string& directory) {
  FULGUR_ASSIGN_OR_RETURN(const JsonFile json,
                          JsonFile::load(directory + "/config.json", kConfigBytesMax));
  FULGUR_ASSIGN_OR_RETURN(ModelConfig config, read_config(json.root()));
  const auto generation = JsonFile::load(directory + "/generation_config.json", kConfigBytesMax);
  if (!generation && generation.status().code() == Code::not_found) return config;
  if (!generation) return generation.status();
  FULGUR_RETURN_IF_ERROR(read_special_tokens(generation->root(), config));
  return config;
}

}  // namespace fulgur::model
