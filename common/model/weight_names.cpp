#include "common/model/weight_names.hpp"

#include <fmt/format.h>

#include <array>

namespace fulgur::model {
namespace {

constexpr std::array<std::string_view, 2> kMoePrefixes = {"block_sparse_moe", "mlp"};

using Shape = std::vector<std::uint64_t>;

void add_attention(const ModelConfig& config, std::uint32_t layer,
                   std::vector<ExpectedTensor>& out) {
  const std::uint64_t width = config.attention_width();
  const std::uint64_t hidden = config.hidden;
  const auto add = [&](std::string_view rest, Shape shape) {
    out.push_back({names::in_layer(layer, rest), std::move(shape), Part::attention});
  };
  if (config.attention[layer] == AttentionKind::lightning) {
    add("self_attn.qkv_proj.weight", {3 * width, hidden});
    add("self_attn.output_gate.weight", {width, hidden});
    add("self_attn.norm.weight", {width});
    add("self_attn.out_proj.weight", {hidden, width});
    return;
  }
  add("self_attn.q_proj.weight", {width, hidden});
  add("self_attn.k_proj.weight", {config.kv_width(), hidden});
  add("self_attn.v_proj.weight", {config.kv_width(), hidden});
  add("self_attn.o_proj.weight", {hidden, width});
}

void add_experts(const ModelConfig& config, std::uint32_t layer, const MoeLayout& layout,
                 std::vector<ExpectedTensor>& out) {
  const std::uint64_t hidden = config.hidden;
  const std::uint64_t inner = config.expert_inner;
  if (layout.fused) {
    out.push_back(
        {names::fused_gate_up(layer, layout), {config.experts, 2 * inner, hidden}, Part::expert});
    out.push_back(
        {names::fused_down(layer, layout), {config.experts, hidden, inner}, Part::expert});
    return;
  }
  for (std::uint32_t e = 0; e < config.experts; ++e) {
    out.push_back({names::expert(layer, layout, e, "w1"), {inner, hidden}, Part::expert});
    out.push_back({names::expert(layer, layout, e, "w2"), {hidden, inner}, Part::expert});
    out.push_back({names::expert(layer, layout, e, "w3"), {inner, hidden}, Part::expert});
  }
}

void add_layer(const ModelConfig& config, std::uint32_t layer, const HasTensor& has,
               std::vector<ExpectedTensor>& out) {
  const MoeLayout layout = find_moe_layout(layer, has);
  const Shape row = {config.hidden};
  out.push_back({names::in_layer(layer, "input_layernorm.weight"), row, Part::norm});
  add_attention(config, layer, out);
  out.push_back({names::in_layer(layer, "post_attention_layernorm.weight"), row, Part::norm});
  out.push_back({names::router(layer, layout), {config.experts, config.hidden}, Part::router});
  add_experts(config, layer, layout, out);
}

}  // namespace

std::string_view to_string(Part part) {
  static constexpr std::array<std::string_view, kPartCount> kNames = {
      "embedding", "head", "attention", "router", "norm", "expert"};
  return kNames[static_cast<std::size_t>(part)];
}

namespace names {

std::string in_layer(std::uint32_t layer, std::string_view rest) {
  return fmt::format("model.layers.{}.{}", layer, rest);
}

std::string router(std::uint32_t layer, const MoeLayout& layout) {
  return fmt::format("model.layers.{}.{}.gate.weight", layer, layout.router_prefix);
}

std::string expert(std::uint32_t layer, const MoeLayout& layout, std::uint32_t index,
                   std::string_view matrix) {
  return fmt::format("model.layers.{}.{}.experts.{}.{}.weight", layer, layout.expert_prefix, index,
                     matrix);
}

std::string fused_gate_up(std::uint32_t layer, const MoeLayout& layout) {
  return fmt::format("model.layers.{}.{}.experts.gate_up_proj", layer, layout.expert_prefix);
}

std::string fused_down(std::uint32_t layer, const MoeLayout& layout) {
  return fmt::format("model.layers.{}.{}.experts.down_proj", layer, layout.expert_prefix);
}

}  // namespace names

MoeLayout find_moe_layout(std::uint32_t layer, const HasTensor& has) {
  MoeLayout out;
  for (const std::string_view prefix : kMoePrefixes) {
    if (has(names::router(layer, {prefix, prefix, false}))) {
      out.router_prefix = prefix;
      out.expert_prefix = prefix;
      break;
    }
  }
  for (const std::string_view prefix : kMoePrefixes) {
    const MoeLayout fused{out.router_prefix, prefix, true};
    if (has(names::fused_gate_up(layer, fused)) || has(names::fused_down(layer, fused))) {
      return fused;
    }
    const MoeLayout split{out.router_prefix, prefix, false};
    if (has(names::expert(layer, split, 0, "w1"))) return split;
  }
  return out;
}

std::vector<ExpectedTensor> expected_tensors(const ModelConfig& config, const HasTensor& has) {
  std::vector<ExpectedTensor> out;
  const Shape table = {config.vocab, config.hidden};
  out.push_back({std::string(names::kEmbedding), table, Part::embedding});
  for (std::uint32_t layer = 0; layer < config.layers; ++layer) add_layer(config, layer, has, out);
  out.push_back({std::string(names::kFinalNorm), {config.hidden}, Part::norm});
  if (!config.tie_word_embeddings || has(std::string(names::kHead))) {
    out.push_back({std::string(names::kHead), table, Part::head});
  }
  return out;
}

bool is_ignored_tensor(std::string_view name) {
  static constexpr std::array<std::string_view, 5> kEndings = {
      ".slope_rate", ".query_decay", ".key_decay", ".diagonal_decay", ".rotary_emb.inv_freq"};
  for (const std::string_view ending : kEndings) {
    if (name.size() >= ending.size() && name.substr(name.size() - ending.size()) == ending) {
      return true;
    }
  }
  return false;
}

}  // namespace fulgur::model
