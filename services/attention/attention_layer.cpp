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
  state_ = backend_.allocate(state_bytes_);
}

void AttentionLayer::attend(MicroBatch& batch) {
  const std::size_t rows = batch.rows();
  const std::size_t hidden = config_.hidden;
  float* h = batch.h.data();
  float* x = batch.x.reserve(backend_, rows * hidden);
  float* y = batch.y.reserve(backend_, rows * hidden);
  float* out = scratch_.out.reserve(backend_, rows * hidden);

  backend_.rms_norm(h, weights_.norm_in.data(), config_.rms_eps, rows, hidden, x);
  const bool lightning = weights_.kind == model::AttentionKind::lightning;
  if (lightning) {
    attend_lightning(batch, out);
  } else {
    attend_softmax(batch, out);
  }
  const model::Residual& mix = lightning ? config_.lightning_residual : config_.softmax_residual;
  backend_.scale_add(mix.alpha, config_.postnorm ? x : h, mix.beta, out, rows * hidden, h);
  backend_.rms_norm(h, weights_.norm_post.data(), config_.rms_eps, rows, hidden, y);
  batch.residual = config_.postnorm ? y : h;

  const std::size_t routes = rows * config_.experts_per_token;
  batch.experts.resize(routes);
  batch.weights.resize(routes);
  backend_.route(y, rows, *weights_.router, config_.experts_per_token, batch.experts.data(),
                 batch.weights.data());
}

void AttentionLayer::attend_lightning(MicroBatch& batch, float* out) {
  const std::size_t rows = batch.rows();
  const std::size_t width = config_.attention_width();
  float* qkv = scratch_.qkv.reserve(backend_, rows * 3 * width);
  float* gate = scratch_.gate.reserve(backend_, rows * width);
  float* core = scratch_.core.reserve(backend_, rows * width);
  backend_.matmul(batch.x.data(), rows, *weights_.qkv, qkv);
  backend_.matmul(batch.x.data(), rows, *weights_.gate, gate);
  scratch_.lightning.clear();
  for (const Slice& slice : batch.slices) {
    scratch_.lightning.push_back(
        {slice.row, slice.rows, slice.position, state_.get() + slice.slot * piece_bytes_});
  }
  backend_.lightning(lightning_, qkv, scratch_.lightning, core);
  backend_.norm_gate(core, gate, weights_.attention_norm.data(), config_.lightning_norm_eps, rows,
                     width, core);
  backend_.matmul(core, rows, *weights_.out, out);
}

void AttentionLayer::attend_softmax(MicroBatch& batch, float* out) {
  const std::size_t rows = batch.rows();
  const std::size_t width = config_.attention_width();
  float* qkv = scratch_.qkv.reserve(backend_, rows * (width + 2 * config_.kv_width()));
  float* core = scratch_.core.reserve(backend_, rows * width);
  backend_.matmul(batch.x.data(), rows, *weights_.qkv, qkv);
  scratch_.softmax.clear();
  for (const Slice& slice : batch.slices) {
    scratch_.softmax.push_back({slice.row, slice.rows, slice.position, slice.pages->data()});
  }
  backend_.softmax(softmax_, qkv, scratch_.softmax, state_.get(), core);
  backend_.matmul(core, rows, *weights_.out, out);
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
