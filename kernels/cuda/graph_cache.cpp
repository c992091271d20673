#include "kernels/cuda/graph_cache.hpp"

#include <utility>

namespace fulgur::kernels::cuda {
namespace {

/// The first runs of a key load its kernels and set their attributes, which no recording may do.
constexpr std::uint64_t kRecordAt = 3;
/// After a failure the key appears so many times as often before it is tried again.
constexpr std::uint64_t kBackOff = 8;
/// Keys without a graph that are remembered, for each graph that may be kept.
constexpr std::size_t kSeenPerGraph = 4;
/// A full cache gives up a graph only when it was not used for so many runs, times graphs_max. With
/// more keys in turn than graphs, each would otherwise be recorded and dropped before its next use,
/// and one recording costs more than several replays save.
constexpr std::uint64_t kPatience = 8;

}  // namespace

std::size_t GraphKey::hash() const {
  std::uint64_t hash = count_;
  for (std::size_t i = 0; i < count_; ++i) {  // the multiplier and shift of MurmurHash2
    hash = (hash ^ words_[i]) * 0xc6a4a7935bd1e995U;
    hash ^= hash >> 47U;
  }
  return hash;
}

GraphCache::GraphCache(std::size_t graphs_max, Record record)
    : graphs_max_(graphs_max), record_(std::move(record)) {
  FULGUR_ASSERT(graphs_max > 0, "a cache of no graphs");
}

void GraphCache::run(const GraphKey& key, const Launches& launches) {
  ++runs_;
  const auto known = entries_.find(key);
  const Entries::iterator entry = known != entries_.end() ? known->second : seen(key);
  entry->last_appeared = runs_;
  Entries& list = entry->graph ? recorded_ : seen_;
  list.splice(list.begin(), list, entry);
  if (!entry->graph && ++entry->appearances >= entry->record_at && may_record()) {
    record(entry, launches);
  }
  if (!entry->graph || !replay(entry)) launches();
}

/// False, and the graph is gone, when it was refused memory.
bool GraphCache::replay(Entries::iterator entry) {
  if (entry->graph->launch()) {
    ++counts_.replayed;
    return true;
  }
  entry->graph.reset();
  seen_.splice(seen_.begin(), recorded_, entry);
  refuse(*entry);
  return false;
}

/// Whether there is room for one more graph, or one that nobody has used for long makes it.
bool GraphCache::may_record() {
  if (recorded_.size() < graphs_max_) return true;
  if (runs_ - recorded_.back().last_appeared <= kPatience * graphs_max_) return false;
  drop_last(recorded_);
  ++counts_.dropped;
  return true;
}

void GraphCache::record(Entries::iterator entry, const Launches& launches) {
  entry->graph = record_(launches);
  if (!entry->graph) return refuse(*entry);
  recorded_.splice(recorded_.begin(), seen_, entry);
  ++counts_.captured;
  counts_.bytes += entry->graph->bytes();
}

void GraphCache::refuse(Entry& entry) {
  ++counts_.refused;
  entry.appearances = 0;
  entry.record_at *= kBackOff;
}

/// An entry for a key that is new.
GraphCache::Entries::iterator GraphCache::seen(const GraphKey& key) {
  if (seen_.size() >= kSeenPerGraph * graphs_max_) drop_last(seen_);
  seen_.push_front({key, nullptr, 0, kRecordAt, runs_});
  entries_.emplace(key, seen_.begin());
  return seen_.begin();
}

void GraphCache::drop_last(Entries& entries) {
  entries_.erase(entries.back().key);
  entries.pop_back();
}

void GraphCache::clear() {
  entries_.clear();
  recorded_.clear();
  seen_.clear();
}

}  // namespace fulgur::kernels::cuda
