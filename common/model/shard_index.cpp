// model.safetensors.index.json: which shard holds which tensor.
#include <filesystem>
#include <unordered_set>
#include <utility>

#include "common/model/checkpoint.hpp"
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

Result<std::vector<std::pair<std::string, std::string>>> read_shard_index(const std::string& path) {
  FULGUR_ASSIGN_OR_RETURN(const JsonFile json, JsonFile::load(path, kIndexBytesMax));
  FULGUR_ASSIGN_OR_RETURN(const auto map, json.root().object("weight_map"));
  if (!map) return json.root().bad("weight_map", "is missing");
  std::vector<std::pair<std::string, std::string>> out;
  std::unordered_set<std::string_view> seen;
  for (const auto field : map->members()) {
    std::string_view file;
    if (field.value.get(file) != simdjson::SUCCESS || !is_plain_file_name(file)) {
      return map->bad(field.key, "must name a file in the same directory");
    }
    if (!seen.insert(field.key).second) return map->bad(field.key, "is listed twice");
    out.emplace_back(field.key, file);
  }
  return out;
}

}  // namespace fulgur::model
