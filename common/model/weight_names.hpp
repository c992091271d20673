// Tensor names on disk. One description of what a checkpoint of a given ModelConfig must hold,
// shared by the loader (which refuses to start) and the inspector (which lists what is wrong).
// Layouts differ in the mixture-of-experts part only: prefix "block_sparse_moe" or "mlp", and one
// matrix an expert (w1 gate, w3 up, w2 down) or one fused tensor a layer.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "common/model/model_config.hpp"

namespace fulgur::model {

enum class Part : std::uint8_t { embedding, head, attention, router, norm, expert };
inline constexpr std::size_t kPartCount = 6;

std::string_view to_string(Part part);

/// A tensor that must be there.
struct ExpectedTensor {
  std::string name;
  std::vector<std::uint64_t> shape;
  Part part = Part::norm;
};

/// How one layer's experts and router are stored.
struct MoeLayout {
  std::string_view router_prefix = "block_sparse_moe";  ///< of "<prefix>.gate.weight"
  std::string_view expert_prefix = "block_sparse_moe";  ///< of "<prefix>.experts.…"
  bool fused = false;
};

/// Answers whether a tensor name is in the checkpoint.
using HasTensor = std::function<bool(const std::string&)>;

namespace names {
inline constexpr std::string_view kEmbedding = "model.embed_tokens.weight";
inline constexpr std::string_view kFinalNorm = "model.norm.weight";
inline constexpr std::string_view kHead = "lm_head.weight";
/// "model.layers.3.<rest>".
std::string in_layer(std::uint32_t layer, std::string_view rest);
std::string router(std::uint32_t layer, const MoeLayout& layout);
/// `matrix` is "w1", "w2" or "w3".
std::string expert(std::uint32_t layer, const MoeLayout& layout, std::uint32_t index,
                   std::string_view matrix);
std::string fused_gate_up(std::uint32_t layer, const MoeLayout& layout);
std::string fused_down(std::uint32_t layer, const MoeLayout& layout);
}  // namespace names

/// Which layout `layer` uses; the original one when neither is there.
MoeLayout find_moe_layout(std::uint32_t layer, const HasTensor& has);

/// Every tensor the model needs. lm_head is left out when tied and absent.
std::vector<ExpectedTensor> expected_tensors(const ModelConfig& config, const HasTensor& has);

/// True for tensors that are stored but carry no weights: the decay tables that the transformers
/// class saves as buffers, and rotary frequencies.
bool is_ignored_tensor(std::string_view name);

}  // namespace fulgur::model
