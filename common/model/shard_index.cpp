#include "common/model/shard_index.hpp"

#include <limits>
#include <string_view>
#include <unordered_set>

#include "common/model/json_file.hpp"

namespace fulgur::model {
namespace {

constexpr std::size_t kIndexBytesMax = 256U << 20;

/// A shard must lie in the checkpoint's own directory.
bool is_plain_file_name(std::string_view name) {
  return !name.empty() && name.size() <= 255 && name.find('/') == std::string_view::npos &&
         name.find('\0') == std::string_view::npos && name != "." && name != "..";
}

}  // namespace

Result<ShardIndex> read_shard_index(const std::string& path) {
  FULGUR_ASSIGN_OR_RETURN(const JsonFile json, JsonFile::load(path, kIndexBytesMax));
  FULGUR_ASSIGN_OR_RETURN(const auto map, json.root().object("weight_map"));
  if (!map) return json.root().bad("weight_map", "is missing");
  ShardIndex out;
  std::unordered_set<std::string_view> seen;
  for (const auto field : map->members()) {
    std::string_view file;
    if (field.value.get(file) != simdjson::SUCCESS || !is_plain_file_name(file)) {
      return map->bad(field.key, "must name a file in the same directory");
    }
    if (!seen.insert(field.key).second) return map->bad(field.key, "is listed twice");
    out.entries.emplace_back(field.key, file);
  }
  FULGUR_ASSIGN_OR_RETURN(const auto metadata, json.root().object("metadata"));
  if (metadata && metadata->find("total_size")) {
    constexpr std::uint64_t kAny = std::numeric_limits<std::uint64_t>::max();
    FULGUR_ASSIGN_OR_RETURN(out.total_bytes, metadata->integer("total_size", 0, kAny));
  }
  return out;
}

}  // namespace fulgur::model
