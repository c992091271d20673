#include "services/attention/prefix_cache.hpp"

#include <algorithm>
#include <numeric>
#include <vector>

#include "services/attention/scheduler.hpp"

namespace fulgur::attention {
namespace {

constexpr std::uint64_t kBlock = kernels::kLightningBlock;
constexpr std::size_t kTailsMax = 8;  ///< entries that differ behind their last boundary only

std::uint64_t boundary(std::uint64_t length) { return length / kBlock * kBlock; }

std::uint64_t common_length(std::span<const std::uint32_t> a, std::span<const std::uint32_t> b) {
  const std::size_t shorter = std::min(a.size(), b.size());
  const auto end = std::mismatch(a.begin(), a.begin() + static_cast<std::ptrdiff_t>(shorter), b.begin());
  return static_cast<std::uint64_t>(end.first - a.begin());
}

}  // namespace

PrefixCache::PrefixCache(PrefixCacheLimits limits, StateShape shape)
    : limits_(limits), shape_(std::move(shape)) {}

std::uint64_t PrefixCache::bytes_of(std::uint64_t length) const {
  const auto layers = shape_.layer_bytes(length);
  return std::accumulate(layers.begin(), layers.end(), length * sizeof(std::uint32_t));
}

PrefixCache::Hit PrefixCache::find(std::span<const std::uint32_t> tokens, std::uint64_t length_max) {
  Hit best;
  const std::uint64_t longest = std::min<std::uint64_t>(tokens.size(), length_max);
  if (limits_.bytes_max == 0 || longest < kBlock) return best;
  std::vector<std::pair<std::uint64_t, std::uint64_t>> known;  // (boundary, key)
  std::uint64_t hash = hash_prefix({});
  for (std::uint64_t at = 0; at < boundary(longest); ++at) {
    hash = hash_next(hash, tokens[at]);
    if ((at + 1) % kBlock == 0 && by_key_.contains(hash)) known.emplace_back(at + 1, hash);
  }
  Entries::iterator chosen;
  for (auto it = known.rbegin(); it != known.rend() && best.snapshot == nullptr; ++it) {
    const auto [first, last] = by_key_.equal_range(it->second);
    for (auto candidate = first; candidate != last; ++candidate) {
      const auto& snapshot = candidate->second->snapshot;
      const std::uint64_t common =
          std::min(common_length(snapshot->tokens, tokens), longest);
      if (boundary(snapshot->tokens.size()) != it->first || common < it->first) continue;
      // In the entry's open block any length is as good as another; on its boundary only that.
      if (common < best.length) continue;
      best = {snapshot, common};
      chosen = candidate->second;
    }
  }
  if (best.snapshot == nullptr) {
    ++stats_.misses_total;
    return best;
  }
  recent_.splice(recent_.begin(), recent_, chosen);
  ++stats_.hits_total;
  stats_.hit_tokens_total += best.length;
  return best;
}

bool PrefixCache::wants(std::span<const std::uint32_t> tokens) const {
  // One entry that fills the cache would only push out the others.
  if (tokens.size() < kBlock || bytes_of(tokens.size()) > limits_.bytes_max / 2) return false;
  const auto [first, last] = by_key_.equal_range(hash_prefix(tokens.first(boundary(tokens.size()))));
  return std::none_of(first, last, [&](const auto& item) {
    return common_length(item.second->snapshot->tokens, tokens) == tokens.size();
  });
}

void PrefixCache::put(std::shared_ptr<SequenceSnapshot> snapshot) {
  const std::span<const std::uint32_t> tokens = snapshot->tokens;
  if (!wants(tokens)) return;
  const std::uint64_t key = hash_prefix(tokens.first(boundary(tokens.size())));
  auto [first, last] = by_key_.equal_range(key);
  for (auto it = first; it != last;) {  // shorter ones that this one covers
    const auto entry = (it++)->second;
    const bool covered = common_length(entry->snapshot->tokens, tokens) == entry->snapshot->tokens.size();
    if (covered) erase(entry);
  }
  if (by_key_.count(key) >= kTailsMax) erase(by_key_.find(key)->second);
  const std::uint64_t bytes = bytes_of(tokens.size());
  while (!recent_.empty() &&
         (bytes_ + bytes > limits_.bytes_max || recent_.size() >= limits_.entries_max)) {
    ++stats_.evicted_total;
    erase(std::prev(recent_.end()));
  }
  recent_.push_front({key, bytes, std::move(snapshot)});
  by_key_.emplace(key, recent_.begin());
  bytes_ += bytes;
  ++stats_.stored_total;
}

void PrefixCache::erase(Entries::iterator entry) {
  const auto [first, last] = by_key_.equal_range(entry->key);
  by_key_.erase(std::find_if(first, last, [&](const auto& item) { return item.second == entry; }));
  bytes_ -= entry->bytes;
  recent_.erase(entry);
}

}  // namespace fulgur::attention
