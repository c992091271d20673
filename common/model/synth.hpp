// Seeded random checkpoints in the original layout: benchmarks of a real shape without a download,
// and tests of shapes that no released model has. Every weight is a function of (seed, tensor,
// element), so the files are the same on every machine and for every number of threads.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/status.hpp"
#include "common/model/model_config.hpp"

namespace fulgur::model {

struct SynthPreset {
  std::string name;
  std::string summary;  ///< one line for --help
  ModelConfig config;   ///< original dialect
  std::uint32_t shards = 1;
};

/// bench-1b, tiny-random, odd, wide-experts, prenorm-tied.
const std::vector<SynthPreset>& synth_presets();

struct SynthOptions {
  std::string preset;
  std::string directory;  ///< created; must not hold anything yet
  std::uint64_t seed = 0;
  unsigned threads = 2;
  /// Called from the calling thread now and then with the bytes written so far and in all.
  std::function<void(std::uint64_t done, std::uint64_t total)> progress = {};
};

/// Writes config.json, the shards and their index: bf16 weights, fp32 routers, scaled so that
/// activations stay O(1). The directory appears complete or not at all. invalid_argument for an
/// unknown preset, failed_precondition for a directory that holds something, resource_exhausted
/// when the disk is too small. Memory: a few MiB a thread. Returns the bytes written.
Result<std::uint64_t> synthesize(const SynthOptions& options);

/// The same for any config of the original dialect.
Result<std::uint64_t> synthesize(const SynthPreset& preset, const SynthOptions& options);

}  // namespace fulgur::model
