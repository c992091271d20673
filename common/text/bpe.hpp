// Byte-pair encoding of one word: start from single bytes and merge the neighbouring pair of lowest
// rank, leftmost first, until no pair merges (Sennrich et al. 2016). Immutable after loading, safe
// to share between threads.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "common/text/vocabulary.hpp"

namespace fulgur::text {

/// (left id, right id) -> rank and id of the merged token. Open addressing over 16-byte slots.
class MergeTable {
 public:
  static constexpr std::uint32_t kNoRank = 0xFFFFFFFFU;
  struct Merge {
    std::uint32_t rank = kNoRank;
    TokenId merged = 0;
  };

  /// Makes room for `merges` entries; drops what was there.
  void reserve(std::size_t merges);
  /// Adds a merge; a pair that is already there takes the new rank, as in Hugging Face's reader.
  void add(TokenId left, TokenId right, Merge merge);
  Merge find(TokenId left, TokenId right) const;

 private:
  struct Slot {
    std::uint64_t pair = kFree;
    Merge merge;
  };
  static constexpr std::uint64_t kFree = ~0ULL;
  std::size_t slot_of(std::uint64_t pair) const;

  std::vector<Slot> slots_ = std::vector<Slot>(2);
};

class Bpe {
 public:
  /// What the file says about the model besides vocabulary and merges.
  struct Options {
    bool ignore_merges = false;      ///< a word that is a token as a whole is that token
    std::optional<TokenId> unknown;  ///< for bytes without a token; absent: they are dropped
    bool fuse_unknown = false;       ///< neighbouring unknown bytes give one token
  };

  Bpe() = default;
  /// `vocabulary` holds the model's tokens (not the added ones) and is sealed.
  Bpe(Vocabulary vocabulary, MergeTable merges, Options options);

  /// Appends the tokens of one word. O(n log n) in the length of the word.
  void encode_word(std::string_view word, std::vector<TokenId>& out) const;

 private:
  void start_symbols(std::string_view word, std::vector<TokenId>& symbols) const;
  void merge_short(TokenId* symbols, std::size_t count, std::vector<TokenId>& out) const;
  void merge_long(const std::vector<TokenId>& symbols, std::vector<TokenId>& out) const;

  static constexpr TokenId kNoToken = 0xFFFFFFFFU;
  Vocabulary vocabulary_;
  MergeTable merges_;
  Options options_;
  std::array<TokenId, 256> byte_tokens_{};
  bool all_bytes_known_ = false;
};

}  // namespace fulgur::text
