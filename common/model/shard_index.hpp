// model.safetensors.index.json: which shard of a checkpoint holds which tensor.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "common/base/status.hpp"

namespace fulgur::model {

struct ShardIndex {
  /// (tensor name, file name) in the order of the file; a file name has no directory part.
  std::vector<std::pair<std::string, std::string>> entries;
  std::optional<std::uint64_t> total_bytes;  ///< metadata.total_size
};

/// invalid_argument for bad JSON, a tensor listed twice or a file outside the directory.
Result<ShardIndex> read_shard_index(const std::string& path);

}  // namespace fulgur::model
