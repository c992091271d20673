// What attention shards say about expert workers: how fast each is, who cannot reach it, and from
// that which are slow and which are cut off from somebody. A worker that only some shards cannot
// reach is not lost: it serves the others. Plain class, one thread.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "common/wire/messages.hpp"

namespace fulgur::orchestrator {

class WorkerView {
 public:
  struct Summary {
    double speed = 1;  ///< relative to the other workers: median over shards; 1 when unknown
    bool slow = false;                      ///< at least half of the shards that measured it say so
    std::size_t measured_by = 0;           ///< shards that have an opinion of its speed
    std::vector<std::string> unreachable_by;  ///< shards that have no link to it
  };

  /// The latest list of a shard; replaces its former one.
  void observe(const std::string& shard, const std::vector<wire::WorkerSeen>& workers);
  void forget_shard(const std::string& shard) { shards_.erase(shard); }

  /// Of that very process: what was said about an earlier one of the name does not count.
  Summary summary(const std::string& worker, std::uint64_t incarnation) const;

 private:
  std::map<std::string, std::vector<wire::WorkerSeen>> shards_;
};

}  // namespace fulgur::orchestrator
