#include "common/model/checkpoint.hpp"

#include <algorithm>
#include <filesystem>
#include <map>
#include <set>

#include "common/model/fingerprint.hpp"

namespace fulgur::model {

namespace fs = std::filesystem;

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
  const std::string index = directory_ + "/model.safetensors.index.json";
  std::error_code failure;
  if (fs::exists(single, failure)) return index_single_file(single);
  if (fs::exists(index, failure)) return index_shards(index);
  return error(Code::not_found,
               "{}: holds neither model.safetensors nor model.safetensors.index.json", directory_);
}

Status Checkpoint::index_single_file(const std::string& path) {
  FULGUR_ASSIGN_OR_RETURN(SafetensorsFile file, SafetensorsFile::open(path));
  for (std::uint32_t i = 0; i < file.tensors().size(); ++i) {
    locations_[file.tensors()[i].name] = {0, i};
  }
  files_.push_back(std::move(file));
  return Status::ok();
}

Status Checkpoint::index_shards(const std::string& index_path) {
  FULGUR_ASSIGN_OR_RETURN(const auto entries, read_shard_index(index_path));
  std::map<std::string, std::unordered_map<std::string, Location>> shards;
  for (const auto& [name, file] : entries) shards[file];
  for (auto& [file_name, tensors] : shards) {
    auto file = SafetensorsFile::open(directory_ + "/" + file_name);
    if (!file && file.status().code() == Code::not_found) {
      return error(Code::not_found, "{}: names the shard {}, which is missing", index_path,
                   file_name);
    }
    if (!file) return file.status();
    const auto number = static_cast<std::uint32_t>(files_.size());
    for (std::uint32_t i = 0; i < file->tensors().size(); ++i) {
      tensors[file->tensors()[i].name] = {number, i};
    }
    files_.push_back(std::move(file).value());
  }
  for (const auto& [name, file_name] : entries) {
    const auto& tensors = shards[file_name];
    const auto found = tensors.find(name);
    if (found == tensors.end()) {
      return error(Code::data_loss, "{}: lists tensor {} in {}, which does not hold it", index_path,
                   printable(name), file_name);
    }
    locations_[name] = found->second;
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
      bytes = (stored_bytes(names::fused_gate_up(layer, layout)) +
               stored_bytes(names::fused_down(layer, layout))) /
              config_.experts;
    } else {
      for (const std::string_view matrix : {"w1", "w2", "w3"}) {
        bytes += stored_bytes(names::expert(layer, layout, 0, matrix));
      }
    }
    expert_bytes_ = std::max(expert_bytes_, bytes);
  }
  return Status::ok();
}

Status Checkpoint::verify_tensor(const ExpectedTensor& expected) const {
  const auto found = locations_.find(expected.name);
  if (found == locations_.end()) {
    return error(Code::invalid_argument, "{}: tensor {} is missing",
                 files_.size() == 1 ? files_[0].path() : directory_, expected.name);
  }
  const SafetensorsFile& file = files_[found->second.file];
  const TensorInfo& info = file.tensors()[found->second.tensor];
  if (info.shape != expected.shape) {
    return error(Code::invalid_argument, "{}: tensor {} has shape {}; config.json implies {}",
                 file.path(), info.name, shape_text(info.shape), shape_text(expected.shape));
  }
  if (!info.float_dtype()) {
    return error(Code::invalid_argument, "{}: tensor {} has dtype {}; expected BF16, F16 or F32",
                 file.path(), info.name, info.dtype);
  }
  return Status::ok();
}

Result<std::uint64_t> Checkpoint::compute_fingerprint() const {
  Fingerprint hash;
  add_config(hash, config_);
  const std::map<std::string_view, Location> sorted(locations_.begin(), locations_.end());
  for (const auto& [name, where] : sorted) {
    add_tensor(hash, files_[where.file].tensors()[where.tensor]);
  }
  for (const SafetensorsFile& file : files_) FULGUR_RETURN_IF_ERROR(add_file_sample(hash, file));
  return hash.value();
}

std::uint64_t Checkpoint::stored_bytes(const std::string& name) const {
  const Location where = locations_.at(name);
  return files_[where.file].tensors()[where.tensor].bytes;
}

Result<Tensor> Checkpoint::map(const std::string& name) const {
  const Location where = locations_.at(name);
  return files_[where.file].map(files_[where.file].tensors()[where.tensor]);
}

Result<Tensor> Checkpoint::map_slice(const std::string& name, std::uint64_t index) const {
  const Location where = locations_.at(name);
  return files_[where.file].map_slice(files_[where.file].tensors()[where.tensor], index);
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
