#include "services/attention/attention_layer.hpp"

namespace fulgur::attention {

AttentionLayer::AttentionLayer(std::uint32_t index, const model::ModelConfig& config,
                               const LayerWeights& weights, kernels::Backend& backend,
                               LayerScratch& scratch, StateLimits limits)
    : index_(index), config_(config), weights_(weights), backend_(backend), scratch_(scratch) {
  std::size_t pieces = limits.slots;
  if (weights_.kind == model::AttentionKind::lightning) {
    lightning_ = {config_.heads, config_.head_dim, config_.decay_rates(index)};
    piece_bytes_ = backend_.lightning_slot_bytes(lightning_);
  } else {
    softmax_ = {config_.heads, config_.kv_heads, config_.head_dim, config_.rotary_dim,
                config_.rope_theta};
    piece_bytes_ = backend_.softmax_page_bytes(softmax_);
    pieces = limits.pages;
  }
  state_bytes_ = pieces * piece_bytes_;
  state_ = backend_.allocate_state(state_bytes_);
}

void AttentionLayer::attend(MicroBatch& batch) {
  const std::size_t rows = batch.rows();
  float* h = batch.h.data();
  float* y = batch.y.reserve(backend_, rows * config_.hidden);
  if (weights_.kind == model::AttentionKind::lightning) {
    attend_lightning(batch, h, y);
  } else {
    attend_softmax(batch, h, y);
  }
  batch.residual = config_.postnorm ? y : h;

  const std::size_t routes = rows * config_.experts_per_token;
  batch.experts.resize(routes);
  batch.weights.resize(routes);
  backend_.route(y, rows, *weights_.router, config_.experts_per_token, batch.experts.data(),
                 batch.weights.data());
}

kernels::AttentionFrame AttentionLayer::frame(const model::Residual& mix) const {
  return {weights_.norm_in.data(), weights_.norm_post.data(), config_.rms_eps,
          mix.alpha,               mix.beta,                  config_.postnorm,
          config_.hidden};
}

void AttentionLayer::attend_lightning(const MicroBatch& batch, float* h, float* y) {
  scratch_.lightning.clear();
  for (const Slice& slice : batch.slices) {
    scratch_.lightning.push_back(
        {slice.row, slice.rows, slice.position, state_.get() + slice.slot * piece_bytes_});
  }
  const kernels::LightningWeights weights{*weights_.qkv, *weights_.gate,
                                          weights_.attention_norm.data(),
                                          config_.lightning_norm_eps, *weights_.out};
  backend_.lightning_block(frame(config_.lightning_residual), lightning_, weights, batch.rows(),
                           scratch_.lightning, scratch_.arrays, h, y);
}

void AttentionLayer::attend_softmax(const MicroBatch& batch, float* h, float* y) {
  scratch_.softmax.clear();
  for (const Slice& slice : batch.slices) {
    scratch_.softmax.push_back({slice.row, slice.rows, slice.position, slice.pages->data()});
  }
  backend_.softmax_block(frame(config_.softmax_residual), softmax_, {*weights_.qkv, *weights_.out},
                         batch.rows(), scratch_.softmax, state_.get(), scratch_.arrays, h, y);
}

void AttentionLayer::combine(MicroBatch& batch, Dtype dtype) {
  backend_.combine(batch.residual, batch.rows(), config_.hidden, config_.experts_per_token,
                   batch.weights.data(), batch.outputs, dtype, config_.mlp_residual.alpha,
                   config_.mlp_residual.beta, batch.h.data());
}

template <class Visit>
void AttentionLayer::for_each_piece(const Slice& slice, Visit visit) const {
  if (weights_.kind == model::AttentionKind::lightning) {
    visit(state_.get() + slice.slot * piece_bytes_);
    return;
  }
  const std::size_t pages = (slice.position + kernels::kPageTokens - 1) / kernels::kPageTokens;
  for (std::size_t page = 0; page < pages; ++page) {
    visit(state_.get() + (*slice.pages)[page] * piece_bytes_);
  }
}

void AttentionLayer::snapshot(MicroBatch& batch) const {
  auto& bytes = batch.snapshot->layers[index_];
  bytes.clear();
  for_each_piece(batch.slices[0], [&](std::byte* piece) {
    const std::size_t at = bytes.size();
    bytes.resize(at + piece_bytes_);
    backend_.download(bytes.data() + at, piece, piece_bytes_);
  });
}

void AttentionLayer::restore(MicroBatch& batch) {
  const auto& bytes = batch.snapshot->layers[index_];
  std::size_t at = 0;
  for_each_piece(batch.slices[0], [&](std::byte* piece) {
    FULGUR_ASSERT(at + piece_bytes_ <= bytes.size(), "snapshot is shorter than the state");
    backend_.upload(piece, bytes.data() + at, piece_bytes_);
    at += piece_bytes_;
  });
}

}  // namespace fulgur::attention
