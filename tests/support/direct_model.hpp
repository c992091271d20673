// The model computed straight through the layer classes, without scheduler, messages or actors:
// what a shard and its workers must produce. Exposes what goldens hold: logits, hidden states, routes.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "common/model/checkpoint.hpp"
#include "kernels/include/fulgur/kernels/backend.hpp"
#include "services/attention/attention_layer.hpp"
#include "services/attention/model_weights.hpp"

namespace fulgur::test {

/// One sequence's run, everything row-major.
struct DirectRun {
  std::vector<std::vector<float>> logits;         ///< [tail rows][vocab]
  std::vector<std::vector<float>> hidden;         ///< [layers][hidden] after each layer, last position
  std::vector<std::vector<std::uint16_t>> experts;  ///< [layers][tokens * k]
  std::vector<std::vector<float>> weights;          ///< [layers][tokens * k]
};

class DirectModel {
 public:
  /// Throws on a bad checkpoint. `dtype` is the type expert inputs and outputs are rounded to.
  DirectModel(std::shared_ptr<const model::Checkpoint> checkpoint, kernels::Backend& backend,
              Dtype dtype, std::uint32_t pages);

  /// Feeds `ids` from position 0 in chunks of `chunk` tokens; logits of the last `tail` positions.
  DirectRun run(std::span<const std::uint32_t> ids, std::size_t tail, std::size_t chunk);

 private:
  void run_layer(std::size_t layer, attention::MicroBatch& batch, DirectRun& result);
  void run_experts(std::size_t layer, attention::MicroBatch& batch);
  std::vector<float> on_host(const float* values, std::size_t count);

  std::shared_ptr<const model::Checkpoint> checkpoint_;
  kernels::Backend& backend_;
  Dtype dtype_;
  attention::ModelWeights weights_;
  attention::LayerScratch scratch_;
  std::vector<std::unique_ptr<attention::AttentionLayer>> layers_;
  std::vector<std::unique_ptr<kernels::Expert>> experts_;  ///< [layers * experts]
  std::vector<std::uint32_t> pages_;
  kernels::Buffer<float> normed_;
  kernels::Buffer<float> logits_;
  std::vector<std::byte> expert_input_;
  std::vector<std::byte> expert_output_;
};

}  // namespace fulgur::test
