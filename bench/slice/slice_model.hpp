// A few layers of a large model with seeded weights in the backend's own memory, computed straight
// through the layers' classes: attention, gate, experts and combine on one device, nothing on a
// wire. For speed of shapes whose checkpoint nobody has at hand.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "common/model/model_config.hpp"
#include "kernels/include/fulgur/kernels/backend.hpp"
#include "kernels/include/fulgur/kernels/synthetic.hpp"
#include "services/attention/attention_layer.hpp"
#include "services/attention/model_weights.hpp"

namespace fulgur::bench {

/// MiniMax-M1's sizes with `lightning` lightning layers and `softmax` softmax layers after them.
model::ModelConfig m1_slice(std::uint32_t lightning, std::uint32_t softmax);

/// Seeded weights of everything but the experts, in the backend's memory. Throws std::bad_alloc,
/// and AssertionError for a backend that makes no weights.
attention::ModelWeights slice_weights(const model::ModelConfig& config, kernels::Backend& backend);
/// The seeded weights of one expert: the same whoever makes them.
std::unique_ptr<kernels::Expert> slice_expert(const model::ModelConfig& config, std::uint32_t layer,
                                              std::uint32_t expert, kernels::Backend& backend);

class SliceModel {
 public:
  /// Room for `slots` sequences and `pages` KV pages a layer. Throws std::bad_alloc, and
  /// AssertionError for a backend that makes no weights.
  SliceModel(const model::ModelConfig& config, kernels::Backend& backend, std::uint32_t slots,
             std::uint32_t pages);

  /// One forward pass: rows consecutive tokens of `sequences` sequences, the first of each at
  /// `position`; their pages are spread over the pool. Returns the greedy next token of each.
  std::vector<std::uint32_t> step(const std::vector<std::uint32_t>& tokens, std::uint32_t sequences,
                                  std::uint64_t position);
  /// Parts of the last step's layer, to be timed alone: they leave the state as it was or garbage.
  void attend(std::size_t layer);
  void run_experts(std::size_t layer);
  void combine(std::size_t layer);
  void head();
  std::vector<std::uint32_t> choose();

  const model::ModelConfig& config() const { return config_; }
  std::uint64_t weight_bytes() const { return weight_bytes_; }
  std::uint64_t state_bytes() const;

 private:
  void place(std::uint32_t sequences, std::uint32_t rows, std::uint64_t position);

  const model::ModelConfig config_;
  kernels::Backend& backend_;
  attention::ModelWeights weights_;
  std::vector<std::unique_ptr<kernels::Expert>> experts_;  ///< [layers * experts]
  std::vector<std::unique_ptr<attention::AttentionLayer>> layers_;
  attention::LayerScratch scratch_;
  attention::MicroBatch batch_;
  std::vector<std::uint32_t> free_pages_;          ///< the pool's pages in a shuffled order
  std::vector<std::vector<std::uint32_t>> pages_;  ///< of each sequence
  kernels::Buffer<std::byte> sent_, answered_;
  kernels::Buffer<float> last_, logits_;
  std::uint64_t weight_bytes_ = 0;
};

}  // namespace fulgur::bench
