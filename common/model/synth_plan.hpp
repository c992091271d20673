// The files of a synthetic checkpoint before any weight is made: which tensor lies where, from
// which stream of random numbers it is drawn and how it is scaled.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/base/dtype.hpp"
#include "common/model/synth.hpp"
#include "common/model/weight_names.hpp"

namespace fulgur::model {

/// One tensor of a planned file.
struct PlannedTensor {
  ExpectedTensor what;
  std::uint64_t elements = 0;
  Dtype dtype = Dtype::bf16;
  std::uint64_t stream = 0;  ///< seed of the tensor's numbers
  float mean = 0;
  float deviation = 0;
  std::uint64_t offset = 0;  ///< in the data section
  std::uint64_t bytes() const { return elements * size_of(dtype); }
};

struct PlannedFile {
  std::string name;
  std::string header;  ///< length prefix included
  std::vector<PlannedTensor> tensors;
  std::uint64_t bytes = 0;
};

/// Cuts the tensors, in model order, into about equal files.
std::vector<PlannedFile> plan_files(const SynthPreset& preset, std::uint64_t seed);

/// config.json of the original dialect.
std::string synth_config_json(const ModelConfig& config);
/// model.safetensors.index.json.
std::string synth_index_json(const std::vector<PlannedFile>& files);

}  // namespace fulgur::model
