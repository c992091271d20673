// A checkpoint directory: config.json plus safetensors, single-file or sharded with an index, in
// the original layout or the transformers one (experts one by one or fused). Opening reads headers
// only and checks that every tensor is there with the right shape and a float dtype; accessors map
// tensors on demand, so an attention shard maps no expert weights and an expert worker only its own
// replicas. Immutable: share it between threads.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "common/base/status.hpp"
#include "common/model/model_config.hpp"
#include "common/model/safetensors.hpp"
#include "common/model/weight_names.hpp"

namespace fulgur::model {

/// Lightning attention weights; W = heads * head_dim.
struct LightningTensors {
  Tensor qkv;   ///< [3 W, hidden], rows per head: head_dim of q, then k, then v
  Tensor gate;  ///< [W, hidden]
  Tensor norm;  ///< [W]
  Tensor out;   ///< [hidden, W]
};

/// Softmax attention weights; W = heads * head_dim, KV = kv_heads * head_dim.
struct SoftmaxTensors {
  Tensor q;  ///< [W, hidden]
  Tensor k;  ///< [KV, hidden]
  Tensor v;  ///< [KV, hidden]
  Tensor o;  ///< [hidden, W]
};

/// All weights of a layer but its experts. Which attention member is filled follows `kind`.
struct LayerTensors {
  AttentionKind kind = AttentionKind::lightning;
  Tensor norm_in;    ///< [hidden]
  Tensor norm_post;  ///< [hidden]
  Tensor router;     ///< [experts, hidden]
  LightningTensors lightning;
  SoftmaxTensors softmax;
};

/// One expert: down(silu(gate x) * up x).
struct ExpertTensors {
  Tensor gate;  ///< [expert_inner, hidden]
  Tensor up;    ///< [expert_inner, hidden]
  Tensor down;  ///< [hidden, expert_inner]
};

class Checkpoint {
 public:
  /// not_found (no such directory, config or shard), data_loss (truncated or corrupt file) or
  /// invalid_argument (unsupported or inconsistent): one line naming file and tensor or key.
  static Result<std::shared_ptr<const Checkpoint>> open(const std::string& directory);

  const ModelConfig& config() const { return config_; }
  const std::string& directory() const { return directory_; }

  Result<Tensor> embedding() const;   ///< [vocab, hidden]
  Result<Tensor> final_norm() const;  ///< [hidden]
  Result<Tensor> lm_head() const;     ///< [vocab, hidden]; the embedding when tied
  Result<LayerTensors> layer(std::uint32_t index) const;
  Result<ExpertTensors> expert(std::uint32_t layer, std::uint32_t index) const;

  /// Bytes of one expert as stored (the largest, should dtypes differ between layers).
  std::uint64_t expert_bytes() const { return expert_bytes_; }

  /// Identity of the model: a hash of the config's meaning, of every tensor's name, dtype and shape
  /// and of samples of every file. Equal for a copied directory and stable between builds.
  std::uint64_t fingerprint() const { return fingerprint_; }
  /// Version of the weights; 0 until they are swapped in place.
  std::uint64_t weight_version() const { return 0; }

 private:
  Status open_shards();
  Status index_single_file(const std::string& path);
  Status index_shards(const std::string& index_path);
  Status verify();
  Status verify_tensor(const ExpectedTensor& expected) const;
  Result<std::uint64_t> compute_fingerprint() const;
  bool has(const std::string& name) const { return shard_of_.count(name) != 0; }
  const TensorInfo& info(const std::string& name) const;
  Result<Tensor> map(const std::string& name) const;
  Result<Tensor> map_slice(const std::string& name, std::uint64_t index) const;

  std::string directory_;
  ModelConfig config_;
  std::vector<SafetensorsFile> files_;                       ///< ordered by file name
  std::unordered_map<std::string, std::uint32_t> shard_of_;  ///< tensor name -> index in files_
  std::vector<MoeLayout> moe_;                               ///< [layers]
  std::uint64_t expert_bytes_ = 0;
  std::uint64_t fingerprint_ = 0;
};

}  // namespace fulgur::model
