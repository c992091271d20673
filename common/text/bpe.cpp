// Two ways to the same result: a scan for the lowest rank in short words (nearly all of them), and
// a heap over a linked list for long ones, where the scan would be quadratic.
#include "common/text/bpe.hpp"

#include <bit>
#include <queue>
#include <string>

#include "common/base/rng.hpp"

namespace fulgur::text {
namespace {

constexpr std::size_t kShortWord = 32;  // bytes; above it the heap wins
constexpr std::uint32_t kEnd = 0xFFFFFFFFU;

struct Node {
  TokenId token;
  std::uint32_t previous, next;
  bool alive = true;
};

struct Candidate {
  std::uint32_t rank;
  std::uint32_t position;
  TokenId merged;
  bool operator>(const Candidate& other) const {
    return rank != other.rank ? rank > other.rank : position > other.position;
  }
};

using Heap = std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>>;

}  // namespace

void MergeTable::reserve(std::size_t merges) {
  slots_.assign(std::bit_ceil(2 * merges + 2), Slot{});
}

void MergeTable::add(TokenId left, TokenId right, Merge merge) {
  const std::uint64_t pair = (static_cast<std::uint64_t>(left) << 32) | right;
  slots_[slot_of(pair)] = {pair, merge};
}

MergeTable::Merge MergeTable::find(TokenId left, TokenId right) const {
  return slots_[slot_of((static_cast<std::uint64_t>(left) << 32) | right)].merge;
}

std::size_t MergeTable::slot_of(std::uint64_t pair) const {
  const std::size_t mask = slots_.size() - 1;
  std::size_t slot = mix64(pair) & mask;
  while (slots_[slot].pair != pair && slots_[slot].pair != kFree) slot = (slot + 1) & mask;
  return slot;
}

Bpe::Bpe(Vocabulary vocabulary, MergeTable merges, Options options)
    : vocabulary_(std::move(vocabulary)), merges_(std::move(merges)), options_(options) {
  all_bytes_known_ = true;
  for (std::size_t byte = 0; byte < 256; ++byte) {
    const char c = static_cast<char>(byte);
    byte_tokens_[byte] = vocabulary_.find({&c, 1}).value_or(kNoToken);
    all_bytes_known_ = all_bytes_known_ && byte_tokens_[byte] != kNoToken;
  }
}

void Bpe::encode_word(std::string_view word, std::vector<TokenId>& out) const {
  if (options_.ignore_merges) {
    if (const auto whole = vocabulary_.find(word)) {
      out.push_back(*whole);
      return;
    }
  }
  if (all_bytes_known_ && word.size() <= kShortWord) {
    std::array<TokenId, kShortWord> symbols;
    for (std::size_t i = 0; i < word.size(); ++i) {
      symbols[i] = byte_tokens_[static_cast<unsigned char>(word[i])];
    }
    merge_short(symbols.data(), word.size(), out);
    return;
  }
  std::vector<TokenId> symbols;
  start_symbols(word, symbols);
  if (symbols.size() <= kShortWord) {
    merge_short(symbols.data(), symbols.size(), out);
  } else {
    merge_long(symbols, out);
  }
}

void Bpe::start_symbols(std::string_view word, std::vector<TokenId>& symbols) const {
  symbols.reserve(word.size());
  bool after_unknown = false;
  for (const char byte : word) {
    const TokenId token = byte_tokens_[static_cast<unsigned char>(byte)];
    if (token != kNoToken) {
      symbols.push_back(token);
    } else if (options_.unknown && !(after_unknown && options_.fuse_unknown)) {
      symbols.push_back(*options_.unknown);
    }
    after_unknown = token == kNoToken;
  }
}

void Bpe::merge_short(TokenId* symbols, std::size_t count, std::vector<TokenId>& out) const {
  std::array<MergeTable::Merge, kShortWord> pairs;  // pairs[i] merges symbols i and i + 1
  for (std::size_t i = 0; i + 1 < count; ++i) pairs[i] = merges_.find(symbols[i], symbols[i + 1]);
  while (count > 1) {
    std::size_t best = 0;
    for (std::size_t i = 1; i + 1 < count; ++i) {
      if (pairs[i].rank < pairs[best].rank) best = i;
    }
    if (pairs[best].rank == MergeTable::kNoRank) break;
    symbols[best] = pairs[best].merged;
    for (std::size_t i = best + 1; i + 1 < count; ++i) {
      symbols[i] = symbols[i + 1];
      pairs[i - 1] = pairs[i];
    }
    --count;
    if (best > 0) pairs[best - 1] = merges_.find(symbols[best - 1], symbols[best]);
    if (best + 1 < count) pairs[best] = merges_.find(symbols[best], symbols[best + 1]);
  }
  out.insert(out.end(), symbols, symbols + count);
}

void Bpe::merge_long(const std::vector<TokenId>& symbols, std::vector<TokenId>& out) const {
  const auto count = static_cast<std::uint32_t>(symbols.size());
  std::vector<Node> nodes(count);
  Heap heap;
  const auto consider = [&](std::uint32_t left) {
    const std::uint32_t right = nodes[left].next;
    if (right == kEnd) return;
    const MergeTable::Merge merge = merges_.find(nodes[left].token, nodes[right].token);
    if (merge.rank != MergeTable::kNoRank) heap.push({merge.rank, left, merge.merged});
  };
  for (std::uint32_t i = 0; i < count; ++i) {
    nodes[i] = {symbols[i], i == 0 ? kEnd : i - 1, i + 1 == count ? kEnd : i + 1};
  }
  for (std::uint32_t i = 0; i < count; ++i) consider(i);
  while (!heap.empty()) {
    const Candidate top = heap.top();
    heap.pop();
    Node& left = nodes[top.position];
    if (!left.alive || left.next == kEnd) continue;
    Node& right = nodes[left.next];
    // A stale entry names a pair that has changed since; its result cannot be the same token,
    // because a symbol only ever grows.
    const MergeTable::Merge now = merges_.find(left.token, right.token);
    if (now.rank != top.rank || now.merged != top.merged) continue;
    left.token = top.merged;
    right.alive = false;
    left.next = right.next;
    if (right.next != kEnd) nodes[right.next].previous = top.position;
    if (left.previous != kEnd) consider(left.previous);
    consider(top.position);
  }
  for (std::uint32_t i = 0; i != kEnd; i = nodes[i].next) out.push_back(nodes[i].token);
}

}  // namespace fulgur::text
