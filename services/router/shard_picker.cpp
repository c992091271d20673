#include "services/router/shard_picker.hpp"

#include <algorithm>

#include "common/base/rng.hpp"

namespace fulgur::router {
namespace {

constexpr std::size_t kPrefixTokens = 64;
constexpr std::size_t kRecentMax = 4096;
constexpr std::size_t kAffinitySlack = 4;  ///< sequences a shard may be ahead and still be preferred

}  // namespace

std::uint64_t prefix_key(std::span<const std::uint32_t> prompt) {
  if (prompt.size() < kPrefixTokens) return 0;
  std::uint64_t key = 1;
  for (const std::uint32_t id : prompt.first(kPrefixTokens)) key = mix64(key ^ id);
  return key;
}

ShardPicker::Changes ShardPicker::apply(const std::vector<wire::ShardEntry>& entries) {
  Changes changes;
  for (auto& [name, shard] : shards_) shard.named = false;
  for (const auto& entry : entries) {
    Shard& shard = shards_[entry.name];
    if (shard.link != 0 && shard.endpoint != entry.endpoint) {
      changes.disconnect.push_back(shard.link);
      shard.link = 0;
      shard.up = false;
      shard.leaving = false;
    }
    shard.name = entry.name;
    shard.endpoint = entry.endpoint;
    shard.accepting = entry.accepting;
    shard.named = true;
    if (shard.link == 0) changes.connect.push_back(entry.name);
  }
  const auto unused = take_unused();
  changes.disconnect.insert(changes.disconnect.end(), unused.begin(), unused.end());
  return changes;
}

std::vector<transport::LinkId> ShardPicker::take_unused() {
  std::vector<transport::LinkId> links;
  std::erase_if(shards_, [&links](const auto& item) {
    const Shard& shard = item.second;
    if (shard.named || (shard.up && shard.running > 0)) return false;
    if (shard.link != 0) links.push_back(shard.link);
    return true;
  });
  return links;
}

Shard* ShardPicker::find(const std::string& name) {
  const auto found = shards_.find(name);
  return found == shards_.end() ? nullptr : &found->second;
}

Shard* ShardPicker::by_link(transport::LinkId link) {
  const auto found = std::ranges::find_if(
      shards_, [link](const auto& item) { return item.second.link == link; });
  return found == shards_.end() ? nullptr : &found->second;
}

bool ShardPicker::usable(const Shard& shard, const std::vector<std::string>& avoid) {
  return shard.named && shard.accepting && shard.up && !shard.leaving &&
         std::ranges::find(avoid, shard.name) == avoid.end();
}

bool ShardPicker::ready() const {
  return std::ranges::any_of(shards_, [](const auto& item) { return usable(item.second, {}); });
}

Shard* ShardPicker::pick(std::uint64_t prefix, const std::vector<std::string>& avoid,
                         const std::string& prefer) {
  if (Shard* wanted = prefer.empty() ? nullptr : find(prefer);
      wanted != nullptr && usable(*wanted, avoid)) {
    if (prefix != 0) remember(prefix, prefer);
    return wanted;
  }
  std::vector<Shard*> least;
  for (auto& [name, shard] : shards_) {
    if (!usable(shard, avoid)) continue;
    if (!least.empty() && shard.running < least.front()->running) least.clear();
    if (least.empty() || shard.running == least.front()->running) least.push_back(&shard);
  }
  if (least.empty()) return nullptr;
  Shard* chosen = least[turn_++ % least.size()];
  if (prefix == 0) return chosen;
  if (const auto found = recent_index_.find(prefix); found != recent_index_.end()) {
    Shard* known = find(found->second->second);
    if (known != nullptr && usable(*known, avoid) &&
        known->running <= chosen->running + kAffinitySlack) {
      chosen = known;
    }
  }
  remember(prefix, chosen->name);
  return chosen;
}

void ShardPicker::remember(std::uint64_t prefix, const std::string& name) {
  if (const auto found = recent_index_.find(prefix); found != recent_index_.end()) {
    recent_.erase(found->second);
  }
  recent_.emplace_front(prefix, name);
  recent_index_[prefix] = recent_.begin();
  if (recent_.size() > kRecentMax) {
    recent_index_.erase(recent_.back().first);
    recent_.pop_back();
  }
}

}  // namespace fulgur::router
