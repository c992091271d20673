#include "cli/planner/model_shape.hpp"

#include <filesystem>

#include "common/model/inspect.hpp"
#include "common/model/synth.hpp"

namespace fulgur::planner {
namespace {

/// MiniMax-AI/MiniMax-M1 config.json, whose shapes are Text-01's; softmax at every `period`-th.
model::ModelConfig minimax(const char* type, std::uint32_t layers, std::uint32_t period) {
  model::ModelConfig config;
  config.model_type = type;
  config.layers = layers;
  for (std::uint32_t i = 0; i < layers; ++i) {
    config.attention.push_back((i + 1) % period == 0 ? model::AttentionKind::softmax
                                                     : model::AttentionKind::lightning);
  }
  config.hidden = 6144;
  config.heads = 64;
  config.kv_heads = 8;
  config.head_dim = 128;
  config.rotary_dim = 64;
  config.experts = 32;
  config.experts_per_token = 2;
  config.expert_inner = 9216;
  config.vocab = 200'064;
  config.max_positions = 10'240'000;
  config.postnorm = true;
  return config;
}

std::vector<ModelShape> make_shapes() {
  std::vector<ModelShape> shapes = {{"M1", minimax("minimax_m1", 80, 8)},
                                    {"Text-01", minimax("minimax_text_01", 80, 8)},
                                    {"M1-4-layers", minimax("minimax_m1", 4, 4)}};
  for (const auto& preset : model::synth_presets()) shapes.push_back({preset.name, preset.config});
  return shapes;
}

}  // namespace

const std::vector<ModelShape>& named_shapes() {
  static const std::vector<ModelShape> kShapes = make_shapes();
  return kShapes;
}

Result<ModelShape> find_shape(const std::string& name) {
  for (const ModelShape& shape : named_shapes()) {
    if (shape.name == name) return shape;
  }
  std::error_code failure;
  if (!std::filesystem::is_directory(name, failure)) {
    std::string names;
    for (const ModelShape& shape : named_shapes()) names += ", " + shape.name;
    return error(Code::not_found, "--model {}: is neither a directory nor one of{}", name,
                 names.substr(1));
  }
  FULGUR_ASSIGN_OR_RETURN(const model::Inspection report, model::inspect(name));
  if (!report.consistent()) {
    return error(Code::failed_precondition, "{}: is damaged; ./fulgur check says where", name);
  }
  return ModelShape{std::filesystem::path(name).lexically_normal().string(), report.config};
}

}  // namespace fulgur::planner
