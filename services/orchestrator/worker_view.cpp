#include "services/orchestrator/worker_view.hpp"

#include <algorithm>

namespace fulgur::orchestrator {

void WorkerView::observe(const std::string& shard, const std::vector<wire::WorkerSeen>& workers) {
  if (workers.empty())
    shards_.erase(shard);
  else
    shards_.insert_or_assign(shard, workers);
}

WorkerView::Summary WorkerView::summary(const std::string& worker,
                                        std::uint64_t incarnation) const {
  Summary summary;
  std::vector<double> speeds;
  std::size_t slow = 0;
  for (const auto& [shard, workers] : shards_) {
    for (const wire::WorkerSeen& seen : workers) {
      if (seen.name != worker || seen.incarnation != incarnation) continue;
      if (!seen.reachable) summary.unreachable_by.push_back(shard);
      if (seen.speed <= 0) continue;
      speeds.push_back(seen.speed);
      slow += seen.slow;
    }
  }
  summary.measured_by = speeds.size();
  if (speeds.empty()) return summary;
  const auto middle = speeds.begin() + static_cast<std::ptrdiff_t>(speeds.size() / 2);
  std::nth_element(speeds.begin(), middle, speeds.end());
  summary.speed = *middle;
  summary.slow = 2 * slow > speeds.size();  // most of the shards that use it
  return summary;
}

}  // namespace fulgur::orchestrator
