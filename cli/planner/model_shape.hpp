// The model a plan is for: a checkpoint's config.json, or a shape that has a name.
#pragma once

#include <string>
#include <vector>

#include "common/base/status.hpp"
#include "common/model/model_config.hpp"

namespace fulgur::planner {

struct ModelShape {
  std::string name;
  model::ModelConfig config;
};

/// "M1", "Text-01" (the published configs), "M1-4-layers" (their first period of 4 layers: the
/// slice that fits one GPU) and the shapes of `fulgur synth`.
const std::vector<ModelShape>& named_shapes();

/// One of named_shapes(), else the directory `name` through model::inspect: config and index are
/// enough. not_found or invalid_argument in one line; failed_precondition when tensors are missing.
Result<ModelShape> find_shape(const std::string& name);

}  // namespace fulgur::planner
