#include "services/attention/model_weights.hpp"

#include <array>
#include <cstring>

#include "common/base/bf16.hpp"

namespace fulgur::attention {
namespace {

kernels::HostMatrix view(const model::Tensor& tensor) {
  return {tensor.data, tensor.dtype, tensor.shape[0], tensor.shape[1]};
}

Vector load_vector(const model::Tensor& tensor, kernels::Backend& backend) {
  const std::size_t count = tensor.bytes / size_of(tensor.dtype);
  std::vector<float> host(count);
  for (std::size_t i = 0; i < count; ++i) {
    if (tensor.dtype == Dtype::f32) {
      std::memcpy(&host[i], tensor.data + i * 4, 4);
      continue;
    }
    std::uint16_t bits = 0;
    std::memcpy(&bits, tensor.data + i * 2, 2);
    host[i] = tensor.dtype == Dtype::bf16 ? to_float(Bf16{bits}) : half_to_float(bits);
  }
  Vector vector{backend.allocate(count * sizeof(float))};
  backend.upload(vector.memory.get(), host.data(), count * sizeof(float));
  return vector;
}

std::vector<std::uint32_t> zero_rows(const model::Tensor& table) {
  std::vector<std::uint32_t> rows;
  const std::size_t row_bytes = table.bytes / table.shape[0];
  const std::vector<std::byte> zero(row_bytes);
  for (std::uint32_t row = 0; row < table.shape[0]; ++row) {
    if (std::memcmp(table.data + row * row_bytes, zero.data(), row_bytes) == 0) rows.push_back(row);
  }
  return rows;
}

LayerWeights load_layer(const model::LayerTensors& tensors, kernels::Backend& backend) {
  LayerWeights layer;
  layer.kind = tensors.kind;
  layer.norm_in = load_vector(tensors.norm_in, backend);
  layer.norm_post = load_vector(tensors.norm_post, backend);
  layer.router = backend.pack_router(view(tensors.router));
  if (tensors.kind == model::AttentionKind::lightning) {
    layer.qkv = backend.pack(std::array{view(tensors.lightning.qkv)});
    layer.gate = backend.pack(std::array{view(tensors.lightning.gate)});
    layer.out = backend.pack(std::array{view(tensors.lightning.out)});
    layer.attention_norm = load_vector(tensors.lightning.norm, backend);
  } else {
    layer.qkv = backend.pack(
        std::array{view(tensors.softmax.q), view(tensors.softmax.k), view(tensors.softmax.v)});
    layer.out = backend.pack(std::array{view(tensors.softmax.o)});
  }
  return layer;
}

}  // namespace

Result<ModelWeights> ModelWeights::load(const model::Checkpoint& checkpoint,
                                        kernels::Backend& backend) {
  try {
    return load_all(checkpoint, backend);
  } catch (const std::bad_alloc& full) {  // a GPU's message says how much it has
    return error(Code::failed_precondition, "the attention weights do not fit: {}", full.what());
  }
}

Result<ModelWeights> ModelWeights::load_all(const model::Checkpoint& checkpoint,
                                            kernels::Backend& backend) {
  ModelWeights weights;
  FULGUR_ASSIGN_OR_RETURN(const model::Tensor embedding, checkpoint.embedding());
  FULGUR_ASSIGN_OR_RETURN(const model::Tensor head, checkpoint.lm_head());
  FULGUR_ASSIGN_OR_RETURN(const model::Tensor norm, checkpoint.final_norm());
  weights.embedding = backend.pack_table(view(embedding));
  weights.lm_head = backend.pack(std::array{view(head)});
  weights.final_norm = load_vector(norm, backend);
  weights.banned = zero_rows(embedding);
  weights.bytes = weights.embedding->bytes() + weights.lm_head->bytes();
  for (std::uint32_t index = 0; index < checkpoint.config().layers; ++index) {
    FULGUR_ASSIGN_OR_RETURN(const model::LayerTensors tensors, checkpoint.layer(index));
    weights.layers.push_back(load_layer(tensors, backend));
    const LayerWeights& layer = weights.layers.back();
    weights.bytes += layer.router->bytes() + layer.qkv->bytes() + layer.out->bytes() +
                     (layer.gate ? layer.gate->bytes() : 0);
  }
  return weights;
}

}  // namespace fulgur::attention
