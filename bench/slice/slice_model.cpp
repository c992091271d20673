#include "bench/slice/slice_model.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "common/base/assert.hpp"
#include "common/base/rng.hpp"

namespace fulgur::bench {
namespace {

/// Keeps the size of a row through a product with `inputs` columns.
float deviation(std::size_t inputs) { return 1.0F / std::sqrt(static_cast<float>(inputs)); }

std::uint64_t seed_of(std::uint32_t layer) { return std::uint64_t{1000} * (layer + 1); }

kernels::SyntheticWeights& maker_of(kernels::Backend& backend) {
  auto* maker = dynamic_cast<kernels::SyntheticWeights*>(&backend);
  FULGUR_ASSERT(maker != nullptr, "this backend makes no synthetic weights");
  return *maker;
}

attention::Vector ones(std::size_t count, kernels::Backend& backend) {
  const std::vector<float> host(count, 1.0F);
  attention::Vector vector{backend.allocate(count * sizeof(float))};
  backend.upload(vector.memory.get(), host.data(), count * sizeof(float));
  return vector;
}

attention::LayerWeights make_layer(const model::ModelConfig& config, std::uint32_t layer,
                                   kernels::Backend& backend) {
  kernels::SyntheticWeights& make = maker_of(backend);
  attention::LayerWeights weights;
  const std::size_t hidden = config.hidden;
  const std::size_t width = config.attention_width();
  const std::uint64_t seed = seed_of(layer);
  const float scale = deviation(hidden);
  weights.kind = config.attention[layer];
  weights.norm_in = ones(hidden, backend);
  weights.norm_post = ones(hidden, backend);
  weights.router = make.random_router(config.experts, hidden, seed, scale);
  if (weights.kind == model::AttentionKind::lightning) {
    weights.qkv = make.random_matrix(3 * width, hidden, seed + 1, scale);
    weights.gate = make.random_matrix(width, hidden, seed + 2, scale);
    weights.attention_norm = ones(width, backend);
  } else {
    weights.qkv = make.random_matrix(width + 2 * config.kv_width(), hidden, seed + 1, scale);
  }
  weights.out = make.random_matrix(hidden, width, seed + 3, deviation(width));
  return weights;
}

}  // namespace

model::ModelConfig m1_slice(std::uint32_t lightning, std::uint32_t softmax) {
  constexpr model::Residual kResidual{3.5565588200778455F, 1.0F};
  model::ModelConfig config;
  config.model_type = "minimax_m1";
  config.layers = lightning + softmax;
  config.hidden = 6144;
  config.heads = 64;
  config.kv_heads = 8;
  config.head_dim = 128;
  config.rotary_dim = 64;
  config.experts = 32;
  config.experts_per_token = 2;
  config.expert_inner = 9216;
  config.vocab = 200064;
  config.max_positions = 1 << 20;
  config.attention.assign(lightning, model::AttentionKind::lightning);
  config.attention.insert(config.attention.end(), softmax, model::AttentionKind::softmax);
  config.rope_theta = 1e7;
  config.lightning_residual = config.softmax_residual = config.mlp_residual = kResidual;
  config.postnorm = true;
  return config;
}

attention::ModelWeights slice_weights(const model::ModelConfig& config, kernels::Backend& backend) {
  kernels::SyntheticWeights& make = maker_of(backend);
  attention::ModelWeights weights;
  weights.embedding = make.random_table(config.vocab, config.hidden, 1, 1.0F);
  weights.lm_head = make.random_matrix(config.vocab, config.hidden, 2, deviation(config.hidden));
  weights.final_norm = ones(config.hidden, backend);
  weights.bytes = weights.embedding->bytes() + weights.lm_head->bytes();
  for (std::uint32_t layer = 0; layer < config.layers; ++layer) {
    weights.layers.push_back(make_layer(config, layer, backend));
    const attention::LayerWeights& made = weights.layers.back();
    weights.bytes += made.router->bytes() + made.qkv->bytes() + made.out->bytes() +
                     (made.gate ? made.gate->bytes() : 0);
  }
  return weights;
}

std::unique_ptr<kernels::Expert> slice_expert(const model::ModelConfig& config, std::uint32_t layer,
                                              std::uint32_t expert, kernels::Backend& backend) {
  return maker_of(backend).random_expert(config.hidden, config.expert_inner,
                                         seed_of(layer) + 10 + 2 * expert,
                                         deviation(config.hidden));
}

SliceModel::SliceModel(const model::ModelConfig& config, kernels::Backend& backend,
                       std::uint32_t slots, std::uint32_t pages)
    : config_(config),
      backend_(backend),
      weights_(slice_weights(config, backend)),
      free_pages_(pages),
      weight_bytes_(weights_.bytes) {
  for (std::uint32_t layer = 0; layer < config_.layers; ++layer) {
    for (std::uint32_t expert = 0; expert < config_.experts; ++expert) {
      experts_.push_back(slice_expert(config_, layer, expert, backend_));
      weight_bytes_ += experts_.back()->bytes();
    }
  }
  for (std::uint32_t layer = 0; layer < config_.layers; ++layer) {
    layers_.push_back(std::make_unique<attention::AttentionLayer>(
        layer, config_, weights_.layers[layer], backend_, scratch_,
        attention::StateLimits{slots, pages}));
  }
  std::iota(free_pages_.begin(), free_pages_.end(), 0U);
  Rng rng(7);
  for (std::size_t i = free_pages_.size(); i-- > 1;) {
    std::swap(free_pages_[i], free_pages_[rng.below(i + 1)]);
  }
  pages_.resize(slots);
}

std::uint64_t SliceModel::state_bytes() const {
  std::uint64_t bytes = 0;
  for (const auto& layer : layers_) bytes += layer->state_bytes();
  return bytes;
}

void SliceModel::place(std::uint32_t sequences, std::uint32_t rows, std::uint64_t position) {
  const std::size_t wanted = (position + rows + kernels::kPageTokens - 1) / kernels::kPageTokens;
  FULGUR_ASSERT(sequences <= pages_.size(), "more sequences than slots");
  FULGUR_ASSERT(sequences * wanted <= free_pages_.size(), "more tokens than KV pages");
  batch_.slices.clear();
  for (std::uint32_t s = 0; s < sequences; ++s) {
    // Page p of sequence s is the same in every step of a run with as many sequences.
    pages_[s].clear();
    for (std::size_t p = 0; p < wanted; ++p) pages_[s].push_back(free_pages_[p * sequences + s]);
    batch_.slices.push_back({s + 1, s, s * rows, rows, position, &pages_[s], 1});
  }
}

std::vector<std::uint32_t> SliceModel::step(const std::vector<std::uint32_t>& tokens,
                                            std::uint32_t sequences, std::uint64_t position) {
  batch_.tokens = tokens;
  place(sequences, static_cast<std::uint32_t>(tokens.size()) / sequences, position);
  backend_.embed(*weights_.embedding, batch_.tokens,
                 batch_.h.reserve(backend_, tokens.size() * config_.hidden));
  for (std::size_t layer = 0; layer < layers_.size(); ++layer) {
    attend(layer);
    run_experts(layer);
    combine(layer);
  }
  head();
  return choose();
}

void SliceModel::combine(std::size_t layer) { layers_[layer]->combine(batch_, Dtype::bf16); }

std::vector<std::uint32_t> SliceModel::choose() {
  std::vector<std::uint32_t> next(batch_.slices.size());
  maker_of(backend_).argmax(logits_.data(), next.size(), config_.vocab, next.data());
  return next;
}

void SliceModel::attend(std::size_t layer) { layers_[layer]->attend(batch_); }

void SliceModel::run_experts(std::size_t layer) {
  const std::uint32_t k = config_.experts_per_token;
  const std::size_t row_bytes = config_.hidden * size_of(Dtype::bf16);
  std::vector<std::uint32_t> all(batch_.rows());
  std::iota(all.begin(), all.end(), 0U);
  std::byte* sent = sent_.reserve(backend_, all.size() * row_bytes);
  std::byte* answered = answered_.reserve(backend_, all.size() * k * row_bytes);
  backend_.gather(batch_.y.data(), all, config_.hidden, Dtype::bf16, sent);
  std::vector<std::vector<std::uint32_t>> rows(config_.experts);
  std::vector<std::vector<std::size_t>> routes(config_.experts);
  for (std::size_t route = 0; route < batch_.experts.size(); ++route) {
    rows[batch_.experts[route]].push_back(static_cast<std::uint32_t>(route / k));
    routes[batch_.experts[route]].push_back(route);
  }
  std::vector<kernels::ExpertGroup> groups;
  batch_.outputs.assign(batch_.experts.size(), nullptr);
  std::uint32_t output = 0;
  for (std::uint32_t expert = 0; expert < config_.experts; ++expert) {
    if (rows[expert].empty()) continue;
    groups.push_back({experts_[layer * config_.experts + expert].get(), rows[expert], output});
    for (const std::size_t route : routes[expert]) {
      batch_.outputs[route] = answered + output++ * row_bytes;
    }
  }
  backend_.experts(sent, Dtype::bf16, config_.hidden, groups, answered, Dtype::bf16);
}

void SliceModel::head() {
  std::vector<std::uint32_t> rows;
  for (const auto& slice : batch_.slices) rows.push_back(slice.row + slice.rows - 1);
  float* last = last_.reserve(backend_, rows.size() * config_.hidden);
  float* logits = logits_.reserve(backend_, rows.size() * config_.vocab);
  backend_.gather(batch_.h.data(), rows, config_.hidden, Dtype::f32,
                  reinterpret_cast<std::byte*>(last));
  backend_.rms_norm(last, weights_.final_norm.data(), config_.rms_eps, rows.size(), config_.hidden,
                    last);
  backend_.matmul(last, rows.size(), *weights_.lm_head, logits);
}

}  // namespace fulgur::bench
