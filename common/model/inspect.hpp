// What a checkpoint directory is and what is wrong with it, from config, index and shard headers
// alone: all problems at once, where Checkpoint::open stops at the first. Works on a directory that
// holds only config.json and the index, too; shapes are then not verified and the report says so.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "common/base/status.hpp"
#include "common/model/model_config.hpp"
#include "common/model/weight_names.hpp"

namespace fulgur::model {

struct PartSize {
  std::uint64_t tensors = 0;
  std::uint64_t params = 0;
  std::uint64_t bytes = 0;  ///< as stored; where headers are absent, fp32 routers and bf16 the rest
};

struct TensorProblem {
  std::string tensor;
  std::string file;  ///< empty when unknown
  std::string what;
};

struct Inspection {
  std::string directory;
  ModelConfig config;
  std::string layout;                      ///< "one tensor an expert", "fused experts" or "mixed"
  std::array<PartSize, kPartCount> parts;  ///< by Part; expected tensors, present or not

  std::uint64_t names = 0;    ///< tensors listed by index and headers
  std::uint64_t mapped = 0;   ///< of them, those the model uses
  std::uint64_t ignored = 0;  ///< of them, stored decay tables and the like
  std::uint64_t shards = 0;
  std::uint64_t shards_absent = 0;
  std::uint64_t verified = 0;  ///< mapped tensors whose shape and dtype a header confirmed
  std::optional<std::uint64_t> index_total_bytes;  ///< the index's own claim

  std::vector<TensorProblem> missing;
  std::vector<TensorProblem> unknown;  ///< not used by the model: harmless, but worth a look
  std::vector<TensorProblem> wrong;    ///< shape or dtype differs from what config.json implies
  std::vector<std::string> damaged;    ///< one line each: corrupt shards, index contradictions

  PartSize total() const;
  /// Nothing missing, wrong or damaged among what could be seen.
  bool consistent() const { return missing.empty() && wrong.empty() && damaged.empty(); }
  /// consistent() and every shard present: Checkpoint::open succeeds.
  bool loadable() const { return consistent() && shards_absent == 0; }
};

/// Fails only when there is nothing to report on: no directory, an unusable config.json or index,
/// or neither index nor model.safetensors.
Result<Inspection> inspect(const std::string& directory);

/// For people: sizes, then every problem on a line of its own.
std::string to_text(const Inspection& report);
/// The same as one JSON object.
std::string to_json(const Inspection& report);

}  // namespace fulgur::model
