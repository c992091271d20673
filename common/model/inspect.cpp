#include "common/model/inspect.hpp"

#include <filesystem>
#include <map>
#include <set>

#include "common/model/safetensors.hpp"
#include "common/model/shard_index.hpp"

namespace fulgur::model {
namespace {

namespace fs = std::filesystem;

/// Where a listed tensor should be and, when that shard's header was read, what it says.
struct Listed {
  std::string file;
  const TensorInfo* info = nullptr;
};

/// Gathers names from index and headers, then judges them against the config.
class Inspector {
 public:
  explicit Inspector(Inspection& report) : report_(report) {}

  Status list_tensors() {
    const std::string& directory = report_.directory;
    std::error_code failure;
    if (fs::exists(directory + "/model.safetensors", failure)) {
      open_shard("model.safetensors");
      for (const auto& [file, shard] : shards_) {
        for (const TensorInfo& info : shard.tensors()) listed_[info.name] = {file, &info};
      }
      return Status::ok();
    }
    const std::string index = directory + "/model.safetensors.index.json";
    if (fs::exists(index, failure)) return list_index(index);
    return error(Code::not_found,
                 "{}: holds neither model.safetensors nor model.safetensors.index.json", directory);
  }

  void judge() {
    const HasTensor has = [this](const std::string& name) { return listed_.count(name) != 0; };
    describe_layout(has);
    std::set<std::string> expected_names;
    for (const ExpectedTensor& expected : expected_tensors(report_.config, has)) {
      judge_tensor(expected);
      expected_names.insert(expected.name);
    }
    report_.names = listed_.size();
    for (const auto& [name, listed] : listed_) {
      if (expected_names.count(name) != 0) continue;
      if (is_ignored_tensor(name)) {
        ++report_.ignored;
      } else {
        report_.unknown.push_back({name, listed.file, "is not used by this model"});
      }
    }
  }

 private:
  void open_shard(const std::string& file) {
    ++report_.shards;
    auto shard = SafetensorsFile::open(report_.directory + "/" + file);
    if (shard) {
      shards_.emplace(file, std::move(shard).value());
    } else if (shard.status().code() == Code::not_found) {
      ++report_.shards_absent;
    } else {
      report_.damaged.push_back(shard.status().message());
    }
  }

  Status list_index(const std::string& path) {
    FULGUR_ASSIGN_OR_RETURN(const ShardIndex index, read_shard_index(path));
    indexed_ = true;
    report_.index_total_bytes = index.total_bytes;
    std::set<std::string> files;
    for (const auto& [name, file] : index.entries) files.insert(file);
    for (const std::string& file : files) open_shard(file);
    for (const auto& [name, file] : index.entries) {
      Listed listed{file, nullptr};
      const auto shard = shards_.find(file);
      if (shard != shards_.end()) {
        listed.info = shard->second.find(name);
        if (listed.info == nullptr) {
          report_.damaged.push_back(fmt::format("{}: lists tensor {} in {}, which does not hold it",
                                                path, printable(name), file));
        }
      }
      listed_[name] = listed;
    }
    return Status::ok();
  }

  void describe_layout(const HasTensor& has) {
    std::uint32_t fused = 0;
    for (std::uint32_t i = 0; i < report_.config.layers; ++i) {
      fused += find_moe_layout(i, has).fused ? 1 : 0;
    }
    report_.layout = fused == 0                       ? "one tensor an expert"
                     : fused == report_.config.layers ? "fused experts"
                                                      : "mixed";
  }

  void judge_tensor(const ExpectedTensor& expected) {
    const auto found = listed_.find(expected.name);
    const TensorInfo* info = found == listed_.end() ? nullptr : found->second.info;
    count(expected, info);
    if (found == listed_.end()) {
      // Without an index only the unreadable header knows what it holds: report that file alone.
      if (indexed_ || report_.damaged.empty()) {
        report_.missing.push_back({expected.name, "", "is missing"});
      }
      return;
    }
    ++report_.mapped;
    if (info == nullptr) return;
    ++report_.verified;
    if (info->shape != expected.shape) {
      report_.wrong.push_back({expected.name, found->second.file,
                               fmt::format("has shape {}; config.json implies {}",
                                           shape_text(info->shape), shape_text(expected.shape))});
    } else if (!info->float_dtype()) {
      report_.wrong.push_back(
          {expected.name, found->second.file,
           fmt::format("has dtype {}; expected BF16, F16 or F32", info->dtype)});
    }
  }

  void count(const ExpectedTensor& expected, const TensorInfo* info) {
    PartSize& part = report_.parts[static_cast<std::size_t>(expected.part)];
    std::uint64_t params = 1;
    for (const std::uint64_t extent : expected.shape) params *= extent;
    ++part.tensors;
    part.params += params;
    part.bytes += info != nullptr ? info->bytes : params * (expected.part == Part::router ? 4 : 2);
  }

  Inspection& report_;
  std::map<std::string, SafetensorsFile> shards_;
  bool indexed_ = false;
  std::map<std::string, Listed> listed_;
};

}  // namespace

PartSize Inspection::total() const {
  PartSize sum;
  for (const PartSize& part : parts) {
    sum.tensors += part.tensors;
    sum.params += part.params;
    sum.bytes += part.bytes;
  }
  return sum;
}

Result<Inspection> inspect(const std::string& directory) {
  std::error_code failure;
  if (!fs::is_directory(directory, failure)) {
    return error(Code::not_found, "{}: is not a directory", directory);
  }
  Inspection report;
  report.directory = directory;
  FULGUR_ASSIGN_OR_RETURN(report.config, ModelConfig::load(directory));
  Inspector inspector(report);
  FULGUR_RETURN_IF_ERROR(inspector.list_tensors());
  inspector.judge();
  return report;
}

}  // namespace fulgur::model
