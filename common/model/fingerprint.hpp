// The identity of a checkpoint as 64 bits: equal for equal models wherever they lie, different with
// near certainty when the config, a tensor or a sampled weight differs. Not cryptographic. The
// value travels on the wire, so the order of what is hashed is part of the protocol.
#pragma once

#include <cstdint>
#include <string_view>

#include "common/base/status.hpp"
#include "common/model/model_config.hpp"
#include "common/model/safetensors.hpp"

namespace fulgur::model {

class Fingerprint {
 public:
  void add(std::uint64_t word);
  /// Length first, so that neighbouring texts cannot run together.
  void add(std::string_view bytes);
  void add(double number);
  std::uint64_t value() const { return state_; }

 private:
  std::uint64_t state_ = 0x66756c6775723031ULL;  // "fulgur01"
};

void add_config(Fingerprint& hash, const ModelConfig& config);
void add_tensor(Fingerprint& hash, const TensorInfo& info);
/// Size of the data section with its first and last KiB.
Status add_file_sample(Fingerprint& hash, const SafetensorsFile& file);

}  // namespace fulgur::model
