// Linear probing over a table twice the number of tokens.
#include "common/text/vocabulary.hpp"

#include <bit>
#include <functional>

#include "common/base/assert.hpp"

namespace fulgur::text {

void Vocabulary::set(TokenId id, std::string_view bytes) {
  if (id >= entries_.size()) entries_.resize(static_cast<std::size_t>(id) + 1);
  entries_[id] = {arena_.size(), static_cast<std::uint32_t>(bytes.size()), true};
  arena_ += bytes;
  order_.push_back(id);
}

void Vocabulary::seal() {
  slots_.assign(std::bit_ceil(2 * entries_.size() + 2), kFree);
  for (std::size_t id = 0; id < entries_.size(); ++id) {
    if (entries_[id].present) index(static_cast<TokenId>(id));
  }
  for (const TokenId id : order_) index(id);
  order_.clear();
  order_.shrink_to_fit();
}

void Vocabulary::index(TokenId id) { slots_[slot_of(bytes(id))] = id; }

std::string_view Vocabulary::bytes(TokenId id) const {
  if (id >= entries_.size()) return {};
  return std::string_view(arena_).substr(entries_[id].begin, entries_[id].length);
}

std::optional<TokenId> Vocabulary::find(std::string_view bytes) const {
  FULGUR_ASSERT(!slots_.empty(), "find needs a sealed vocabulary");
  const TokenId id = slots_[slot_of(bytes)];
  if (id == kFree) return std::nullopt;
  return id;
}

std::size_t Vocabulary::slot_of(std::string_view bytes) const {
  const std::size_t mask = slots_.size() - 1;
  std::size_t slot = std::hash<std::string_view>{}(bytes)&mask;
  while (slots_[slot] != kFree && this->bytes(slots_[slot]) != bytes) slot = (slot + 1) & mask;
  return slot;
}

}  // namespace fulgur::text
