#include "tests/support/direct_model.hpp"

#include <algorithm>
#include <numeric>

namespace fulgur::test {
namespace {

kernels::HostMatrix view(const model::Tensor& tensor) {
  return {tensor.data, tensor.dtype, tensor.shape[0], tensor.shape[1]};
}

}  // namespace

DirectModel::DirectModel(std::shared_ptr<const model::Checkpoint> checkpoint,
                         kernels::Backend& backend, Dtype dtype, std::uint32_t pages)
    : checkpoint_(std::move(checkpoint)),
      backend_(backend),
      dtype_(dtype),
      weights_(attention::ModelWeights::load(*checkpoint_, backend).value()),
      pages_(pages) {
  const auto& config = checkpoint_->config();
  std::iota(pages_.begin(), pages_.end(), 0U);
  for (std::uint32_t layer = 0; layer < config.layers; ++layer) {
    layers_.push_back(std::make_unique<attention::AttentionLayer>(
        layer, config, weights_.layers[layer], backend_, scratch_, attention::StateLimits{1, pages}));
    for (std::uint32_t expert = 0; expert < config.experts; ++expert) {
      const auto tensors = checkpoint_->expert(layer, expert).value();
      experts_.push_back(
          backend_.pack_expert(view(tensors.gate), view(tensors.up), view(tensors.down)));
    }
  }
}

DirectRun DirectModel::run(std::span<const std::uint32_t> ids, std::size_t tail, std::size_t chunk) {
  const auto& config = checkpoint_->config();
  DirectRun result;
  result.experts.resize(config.layers);
  result.weights.resize(config.layers);
  result.hidden.resize(config.layers);
  attention::MicroBatch batch;
  for (std::size_t begin = 0; begin < ids.size(); begin += chunk) {
    const auto part = ids.subspan(begin, std::min(chunk, ids.size() - begin));
    batch.tokens.assign(part.begin(), part.end());
    batch.slices = {{1, 0, 0, static_cast<std::uint32_t>(part.size()), begin, &pages_, 0}};
    backend_.embed(*weights_.embedding, batch.tokens, batch.h.reserve(backend_, part.size() * config.hidden));
    for (std::size_t layer = 0; layer < config.layers; ++layer) run_layer(layer, batch, result);
    for (std::size_t row = 0; row < part.size(); ++row) {
      if (begin + row + tail < ids.size()) continue;
      float* normed = normed_.reserve(backend_, config.hidden);
      float* logits = logits_.reserve(backend_, config.vocab);
      backend_.rms_norm(batch.h.data() + row * config.hidden, weights_.final_norm.data(),
                        config.rms_eps, 1, config.hidden, normed);
      backend_.matmul(normed, 1, *weights_.lm_head, logits);
      result.logits.push_back(on_host(logits, config.vocab));
    }
  }
  return result;
}

void DirectModel::run_layer(std::size_t layer, attention::MicroBatch& batch, DirectRun& result) {
  const std::size_t hidden = checkpoint_->config().hidden;
  layers_[layer]->attend(batch);
  result.experts[layer].insert(result.experts[layer].end(), batch.experts.begin(), batch.experts.end());
  result.weights[layer].insert(result.weights[layer].end(), batch.weights.begin(), batch.weights.end());
  run_experts(layer, batch);
  layers_[layer]->combine(batch, dtype_);
  const float* last = batch.h.data() + (batch.rows() - 1) * hidden;
  result.hidden[layer] = on_host(last, hidden);
}

std::vector<float> DirectModel::on_host(const float* values, std::size_t count) {
  std::vector<float> host(count);
  backend_.download(host.data(), reinterpret_cast<const std::byte*>(values), count * sizeof(float));
  return host;
}

void DirectModel::run_experts(std::size_t layer, attention::MicroBatch& batch) {
  const auto& config = checkpoint_->config();
  const std::uint32_t k = config.experts_per_token;
  const std::size_t row_bytes = config.hidden * size_of(dtype_);
  std::vector<std::uint32_t> all(batch.rows());
  std::iota(all.begin(), all.end(), 0U);
  expert_input_.resize(all.size() * row_bytes);
  expert_output_.resize(all.size() * k * row_bytes);
  backend_.gather(batch.y.data(), all, config.hidden, dtype_, expert_input_.data());
  std::vector<std::vector<std::uint32_t>> rows(config.experts);
  std::vector<std::vector<std::size_t>> routes(config.experts);
  for (std::size_t route = 0; route < batch.experts.size(); ++route) {
    rows[batch.experts[route]].push_back(static_cast<std::uint32_t>(route / k));
    routes[batch.experts[route]].push_back(route);
  }
  std::vector<kernels::ExpertGroup> groups;
  batch.outputs.assign(batch.experts.size(), nullptr);
  std::uint32_t output = 0;
  for (std::uint32_t expert = 0; expert < config.experts; ++expert) {
    if (rows[expert].empty()) continue;
    groups.push_back({experts_[layer * config.experts + expert].get(), rows[expert], output});
    for (const std::size_t route : routes[expert]) {
      batch.outputs[route] = expert_output_.data() + output++ * row_bytes;
    }
  }
  backend_.experts(expert_input_.data(), dtype_, config.hidden, groups, expert_output_.data(), dtype_);
}

}  // namespace fulgur::test
