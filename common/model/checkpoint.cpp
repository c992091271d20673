#include "common/model/checkpoint.hpp"

#include <algorithm>
#include <filesystem>
#include <map>
#include <set>

#include "common/model/fingerprint.hpp"
#include "common/model/shard_index.hpp"

namespace fulgur::model {

namespace fs = std::filesystem;

namespace {
constexpr const char* kIndexFile = "/model.safetensors.index.json";
}

Result<std::shared_ptr<const Checkpoint>> Checkpoint::open(const std::string& directory) {
  std::error_code failure;
  if (!fs::is_directory(directory, failure)) {
    return error(Code::not_found, "{}: is not a directory", directory);
  }
  auto checkpoint = std::make_shared<Checkpoint>();
  checkpoint->directory_ = directory;
  FULGUR_ASSIGN_OR_RETURN(checkpoint->config_, ModelConfig::load(directory));
  FULGUR_RETURN_IF_ERROR(checkpoint->open_shards());
  FULGUR_RETURN_IF_ERROR(checkpoint->verify());
  FULGUR_ASSIGN_OR_RETURN(checkpoint->fingerprint_, checkpoint->compute_fingerprint());
  return std::shared_ptr<const Checkpoint>(std::move(checkpoint));
}

Status Checkpoint::open_shards() {
  const std::string single = directory_ + "/model.safetensors";
  const std::string index = directory_ + kIndexFile;
  std::error_code failure;
  if (fs::exists(single, failure)) return index_single_file(single);
  if (fs::exists(index, failure)) return index_shards(index);
  return error(Code::not_found,
               "{}: holds neither model.safetensors nor model.safetensors.index.json", directory_);
}

Status Checkpoint::index_single_file(const std::string& path) {
  FULGUR_ASSIGN_OR_RETURN(SafetensorsFile file, SafetensorsFile::open(path));
  for (const TensorInfo& info : file.tensors()) shard_of_[info.name] = 0;
  files_.push_back(std::move(file));
  return Status::ok();
}

Status Checkpoint::index_shards(const std::string& index_path) {
  FULGUR_ASSIGN_OR_RETURN(const ShardIndex index, read_shard_index(index_path));
  std::map<std::string, std::uint32_t> numbers;
  for (const auto& [name, file] : index.entries) numbers[file] = 0;
  for (auto& [file_name, number] : numbers) {
    number = static_cast<std::uint32_t>(files_.size());
    auto file = SafetensorsFile::open(directory_ + "/" + file_name);
    if (!file && file.status().code() == Code::not_found) {
      return error(Code::not_found, "{}: names the shard {}, which is missing", index_path,
                   printable(file_name));
    }
    if (!file) return file.status();
    files_.push_back(std::move(file).value());
  }
  for (const auto& [name, file_name] : index.entries) {
    const std::uint32_t number = numbers[file_name];
    if (files_[number].find(name) == nullptr) {
      return error(Code::data_loss, "{}: lists tensor {} in {}, which does not hold it", index_path,
                   printable(name), printable(file_name));
    }
    shard_of_[name] = number;
  }
  return Status::ok();
}

Status Checkpoint::verify() {
  const HasTensor has_tensor = [this](const std::string& name) { return has(name); };
  for (const ExpectedTensor& expected : expected_tensors(config_, has_tensor)) {
    FULGUR_RETURN_IF_ERROR(verify_tensor(expected));
  }
  for (std::uint32_t layer = 0; layer < config_.layers; ++layer) {
    const MoeLayout layout = find_moe_layout(layer, has_tensor);
    moe_.push_back(layout);
    std::uint64_t bytes = 0;
    if (layout.fused) {
      bytes = (info(names::fused_gate_up(layer, layout)).bytes +
               info(names::fused_down(layer, layout)).bytes) /
              config_.experts;
    } else {
      for (const std::string_view matrix : {"w1", "w2", "w3"}) {
        bytes += info(names::expert(layer, layout, 0, matrix)).bytes;
      }
    }
    expert_bytes_ = std::max(expert_bytes_, bytes);
  }
  return Status::ok();
}

Status Checkpoint::verify_tensor(const ExpectedTensor& expected) const {
  if (!has(expected.name)) {
    return error(Code::invalid_argument, "{}: tensor {} is missing",
                 files_.size() == 1 ? files_[0].path() : directory_ + kIndexFile, expected.name);
  }
  const std::string& path = files_[shard_of_.at(expected.name)].path();
  const TensorInfo& stored = info(expected.name);
  if (stored.shape != expected.shape) {
    return error(Code::invalid_argument, "{}: tensor {} has shape {}; config.json implies {}", path,
                 stored.name, shape_text(stored.shape), shape_text(expected.shape));
  }
  if (!stored.float_dtype()) {
    return error(Code::invalid_argument, "{}: tensor {} has dtype {}; expected BF16, F16 or F32",
                 path, stored.name, stored.dtype);
  }
  return Status::ok();
}

Result<std::uint64_t> Checkpoint::compute_fingerprint() const {
  Fingerprint hash;
  add_config(hash, config_);
  std::set<std::string_view> sorted;
  for (const auto& [name, shard] : shard_of_) sorted.insert(name);
  for (const std::string_view name : sorted) add_tensor(hash, info(std::string(name)));
  for (const SafetensorsFile& file : files_) FULGUR_RETURN_IF_ERROR(add_file_sample(hash, file));
  return hash.value();
}

const TensorInfo& Checkpoint::info(const std::string& name) const {
  const TensorInfo* found = files_[shard_of_.at(name)].find(name);
  FULGUR_ASSERT(found != nullptr, "indexed tensors were found in their shard");
  return *found;
}

Result<Tensor> Checkpoint::map(const std::string& name) const {
  return files_[shard_of_.at(name)].map(info(name));
}

Result<Tensor> Checkpoint::map_slice(const std::string& name, std::uint64_t index) const {
  return files_[shard_of_.at(name)].map_slice(info(name), index);
}

Result<Tensor> Checkpoint::embedding() const { return map(std::string(names::kEmbedding)); }

Result<Tensor> Checkpoint::final_norm() const { return map(std::string(names::kFinalNorm)); }

Result<Tensor> Checkpoint::lm_head() const {
  const std::string name(names::kHead);
  return has(name) ? map(name) : embedding();
}

Result<LayerTensors> Checkpoint::layer(std::uint32_t index) const {
  FULGUR_ASSERT(index < config_.layers, "layer inside the model");
  LayerTensors out;
  out.kind = config_.attention[index];
  const auto bind = [&](Tensor& to, std::string_view rest) -> Status {
    FULGUR_ASSIGN_OR_RETURN(to, map(names::in_layer(index, rest)));
    return Status::ok();
  };
  FULGUR_RETURN_IF_ERROR(bind(out.norm_in, "input_layernorm.weight"));
  FULGUR_RETURN_IF_ERROR(bind(out.norm_post, "post_attention_layernorm.weight"));
  FULGUR_ASSIGN_OR_RETURN(out.router, map(names::router(index, moe_[index])));
  if (out.kind == AttentionKind::lightning) {
    FULGUR_RETURN_IF_ERROR(bind(out.lightning.qkv, "self_attn.qkv_proj.weight"));
    FULGUR_RETURN_IF_ERROR(bind(out.lightning.gate, "self_attn.output_gate.weight"));
    FULGUR_RETURN_IF_ERROR(bind(out.lightning.norm, "self_attn.norm.weight"));
    FULGUR_RETURN_IF_ERROR(bind(out.lightning.out, "self_attn.out_proj.weight"));
    return out;
  }
  FULGUR_RETURN_IF_ERROR(bind(out.softmax.q, "self_attn.q_proj.weight"));
  FULGUR_RETURN_IF_ERROR(bind(out.softmax.k, "self_attn.k_proj.weight"));
  FULGUR_RETURN_IF_ERROR(bind(out.softmax.v, "self_attn.v_proj.weight"));
  FULGUR_RETURN_IF_ERROR(bind(out.softmax.o, "self_attn.o_proj.weight"));
  return out;
}

Result<ExpertTensors> Checkpoint::expert(std::uint32_t layer, std::uint32_t index) const {
  FULGUR_ASSERT(layer < config_.layers && index < config_.experts, "expert inside the model");
  const MoeLayout& layout = moe_[layer];
  ExpertTensors out;
  if (!layout.fused) {
    FULGUR_ASSIGN_OR_RETURN(out.gate, map(names::expert(layer, layout, index, "w1")));
    FULGUR_ASSIGN_OR_RETURN(out.up, map(names::expert(layer, layout, index, "w3")));
    FULGUR_ASSIGN_OR_RETURN(out.down, map(names::expert(layer, layout, index, "w2")));
    return out;
  }
  FULGUR_ASSIGN_OR_RETURN(const Tensor both, map_slice(names::fused_gate_up(layer, layout), index));
  out.gate = both;
  out.gate.shape[0] /= 2;
  out.gate.bytes /= 2;
  out.up = out.gate;
  out.up.data += out.gate.bytes;
  FULGUR_ASSIGN_OR_RETURN(out.down, map_slice(names::fused_down(layer, layout), index));
  return out;
}

}  // namespace fulgur::model
