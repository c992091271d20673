#include "common/model/synth_plan.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "common/base/rng.hpp"

namespace fulgur::model {
namespace {

/// Matrices get deviation gain / sqrt(inputs): a unit-rms input gives an output of rms `gain`.
void set_distribution(PlannedTensor& tensor, bool tied) {
  const bool is_vector = tensor.what.shape.size() == 1;
  if (is_vector) {  // norm weights scatter about 1 so that a forgotten one shows
    tensor.mean = 1;
    tensor.deviation = 0.1F;
    return;
  }
  const double inputs = static_cast<double>(tensor.what.shape[1]);
  const bool is_table = tensor.what.part == Part::embedding && !tied;
  const bool is_head =
      tensor.what.part == Part::head || (tied && tensor.what.part == Part::embedding);
  const double gain = is_head ? 2.0 : 1.0;  // spreads the logits
  tensor.deviation = static_cast<float>(is_table ? 1.0 : gain / std::sqrt(inputs));
}

std::uint64_t name_hash(std::string_view name) {
  std::uint64_t hash = 0xcbf29ce484222325ULL;  // FNV-1a
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3ULL;
  return hash;
}

std::vector<PlannedTensor> plan_tensors(const ModelConfig& config, std::uint64_t seed) {
  std::vector<PlannedTensor> out;
  for (ExpectedTensor& what : expected_tensors(config, [](const std::string&) { return false; })) {
    PlannedTensor tensor;
    tensor.elements = 1;
    for (const std::uint64_t extent : what.shape) tensor.elements *= extent;
    tensor.dtype = what.part == Part::router ? Dtype::f32 : Dtype::bf16;
    tensor.stream = mix64(seed ^ mix64(name_hash(what.name)));
    tensor.what = std::move(what);
    set_distribution(tensor, config.tie_word_embeddings);
    out.push_back(std::move(tensor));
  }
  return out;
}

void write_header(PlannedFile& file) {
  // fp32 first: behind an odd number of bf16 values they would lie misaligned.
  std::stable_sort(file.tensors.begin(), file.tensors.end(), [](const auto& a, const auto& b) {
    return size_of(a.dtype) > size_of(b.dtype);
  });
  nlohmann::ordered_json header;
  header["__metadata__"] = {{"format", "pt"}};
  std::uint64_t offset = 0;
  for (PlannedTensor& tensor : file.tensors) {
    tensor.offset = offset;
    offset += tensor.bytes();
    header[tensor.what.name] = {{"dtype", tensor.dtype == Dtype::f32 ? "F32" : "BF16"},
                                {"shape", tensor.what.shape},
                                {"data_offsets", {tensor.offset, offset}}};
  }
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const std::uint64_t length = text.size();
  for (int i = 0; i < 8; ++i) file.header += static_cast<char>(length >> (8 * i) & 0xff);
  file.header += text;
  file.bytes = file.header.size() + offset;
}

/// The double that prints as shortly as the float does.
double shortest(float value) { return std::stod(fmt::format("{}", value)); }

}  // namespace

std::vector<PlannedFile> plan_files(const SynthPreset& preset, std::uint64_t seed) {
  std::vector<PlannedTensor> tensors = plan_tensors(preset.config, seed);
  std::uint64_t total = 0;
  for (const PlannedTensor& tensor : tensors) total += tensor.bytes();
  std::vector<PlannedFile> files(preset.shards);
  std::uint64_t done = 0;
  for (PlannedTensor& tensor : tensors) {
    const std::uint64_t bytes = tensor.bytes();
    files[std::min<std::uint64_t>(done * preset.shards / total, preset.shards - 1)]
        .tensors.push_back(std::move(tensor));
    done += bytes;
  }
  std::erase_if(files, [](const PlannedFile& file) { return file.tensors.empty(); });
  for (std::size_t i = 0; i < files.size(); ++i) {
    files[i].name = fmt::format("model-{:05}-of-{:05}.safetensors", i, files.size());
    write_header(files[i]);
  }
  return files;
}

std::string synth_config_json(const ModelConfig& config) {
  nlohmann::ordered_json json;
  json["architectures"] = {"MiniMaxM1ForCausalLM"};
  std::vector<int> kinds;
  for (const AttentionKind kind : config.attention) kinds.push_back(kind == AttentionKind::softmax);
  json["attn_type_list"] = kinds;
  json["bos_token_id"] = nullptr;
  json["eos_token_id"] = nullptr;
  json["head_dim"] = config.head_dim;
  json["hidden_act"] = "silu";
  json["hidden_size"] = config.hidden;
  json["intermediate_size"] = config.expert_inner;
  json["layernorm_full_attention_alpha"] = shortest(config.softmax_residual.alpha);
  json["layernorm_full_attention_beta"] = shortest(config.softmax_residual.beta);
  json["layernorm_linear_attention_alpha"] = shortest(config.lightning_residual.alpha);
  json["layernorm_linear_attention_beta"] = shortest(config.lightning_residual.beta);
  json["layernorm_mlp_alpha"] = shortest(config.mlp_residual.alpha);
  json["layernorm_mlp_beta"] = shortest(config.mlp_residual.beta);
  json["max_position_embeddings"] = config.max_positions;
  json["model_type"] = config.model_type;
  json["num_attention_heads"] = config.heads;
  json["num_experts_per_tok"] = config.experts_per_token;
  json["num_hidden_layers"] = config.layers;
  json["num_key_value_heads"] = config.kv_heads;
  json["num_local_experts"] = config.experts;
  json["postnorm"] = config.postnorm;
  json["rms_norm_eps"] = shortest(config.rms_eps);
  json["rope_theta"] = config.rope_theta;
  json["rotary_dim"] = config.rotary_dim;
  json["shared_intermediate_size"] = 0;
  json["tie_word_embeddings"] = config.tie_word_embeddings;
  json["vocab_size"] = config.vocab;
  return json.dump(1) + "\n";
}

std::string synth_index_json(const std::vector<PlannedFile>& files) {
  nlohmann::ordered_json json;
  std::uint64_t total = 0;
  for (const PlannedFile& file : files) {
    for (const PlannedTensor& tensor : file.tensors) {
      json["weight_map"][tensor.what.name] = file.name;
      total += tensor.bytes();
    }
  }
  json["metadata"] = {{"total_size", total}};
  return json.dump() + "\n";
}

}  // namespace fulgur::model
