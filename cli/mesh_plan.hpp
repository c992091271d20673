// Which processes make a mesh and with which arguments: a pure function of the user's options.
#pragma once

#include <string>
#include <vector>

#include "cli/options.hpp"

namespace fulgur::cli {

struct ServicePlan {
  std::string kind;  ///< "router", "attention", "expert", "orchestrator"
  std::string name;
  std::string program;   ///< file name beside this program
  std::string endpoint;  ///< where it listens for peers; empty for the router
  std::vector<std::string> arguments;
};

/// Softmax KV of one shard, in tokens: also the longest context the router may promise.
inline constexpr std::uint32_t kKvTokens = 65'536;

struct MeshPaths {
  std::string model;
  std::string socket_prefix;  ///< "ipc:///run/…/"; NAME.sock is appended
  std::string curve_key = {};  ///< file with the mesh's key; empty: none
};

/// Processes in the order to start them; ended in reverse. `cpus` are the processor numbers that
/// may be used. The orchestrator's admin address is added when it is started, with a port free
/// then.
///
/// Attention and expert workers take turns within a layer, so both may use every processor: shards
/// divide them among themselves, and so do workers.
std::vector<ServicePlan> plan_mesh(const UpOptions& options, const MeshPaths& paths,
                                   const std::vector<int>& cpus);

/// The process that becomes number `index` of a pool, "expert" or "attention".
ServicePlan plan_service(const UpOptions& options, const MeshPaths& paths,
                         const std::vector<int>& cpus, const std::string& kind,
                         std::uint32_t index);

/// Slice `index` of `count` of the processors, at least one each, round robin when there are fewer.
std::vector<int> cpu_slice(const std::vector<int>& cpus, std::size_t index, std::size_t count);

}  // namespace fulgur::cli
