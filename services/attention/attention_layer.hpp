// One layer of a shard without any actor: its share of the arithmetic and the sequence state it owns
// (lightning slots or softmax KV pages). Source of the mathematics: MiniMax-01 (arXiv 2501.08313)
// and the block order of its reference code; docs/architecture.md, "One token's way".
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "common/model/model_config.hpp"
#include "kernels/include/fulgur/kernels/backend.hpp"
#include "services/attention/micro_batch.hpp"
#include "services/attention/model_weights.hpp"

namespace fulgur::attention {

/// Buffers that live only inside one layer's call; the layers of a shard take turns. In the
/// backend's memory.
struct LayerScratch {
  kernels::AttentionScratch arrays;
  std::vector<kernels::LightningSegment> lightning;
  std::vector<kernels::SoftmaxSegment> softmax;
};

/// How much sequence state a shard may hold.
struct StateLimits {
  std::uint32_t slots = 0;  ///< sequences
  std::uint32_t pages = 0;  ///< KV pages of kernels::kPageTokens tokens
};

class AttentionLayer {
 public:
  /// All references outlive the layer. Allocates the layer's state for `limits`.
  AttentionLayer(std::uint32_t index, const model::ModelConfig& config, const LayerWeights& weights,
                 kernels::Backend& backend, LayerScratch& scratch, StateLimits limits);

  /// Attention and routing: h -> y, residual, experts and weights of the micro-batch.
  void attend(MicroBatch& batch);
  /// h = alpha * residual + beta * (slot-ordered sum of the weighted expert outputs).
  void combine(MicroBatch& batch, Dtype dtype);

  /// This layer's state of batch.slices[0], into or out of batch.snapshot->layers[index].
  void snapshot(MicroBatch& batch) const;
  void restore(MicroBatch& batch);

  std::uint64_t state_bytes() const { return state_bytes_; }

 private:
  kernels::AttentionFrame frame(const model::Residual& mix) const;
  void attend_lightning(const MicroBatch& batch, float* h, float* y);
  void attend_softmax(const MicroBatch& batch, float* h, float* y);
  /// Calls visit(device bytes, size) for each piece of the slice's state, in a fixed order.
  template <class Visit>
  void for_each_piece(const Slice& slice, Visit visit) const;

  const std::uint32_t index_;
  const model::ModelConfig& config_;
  const LayerWeights& weights_;
  kernels::Backend& backend_;
  LayerScratch& scratch_;
  kernels::LightningShape lightning_;
  kernels::SoftmaxShape softmax_;
  std::size_t piece_bytes_ = 0;  ///< of one slot, or of one page
  std::uint64_t state_bytes_ = 0;
  std::shared_ptr<std::byte> state_;
};

}  // namespace fulgur::attention
