// Token id <-> bytes. One arena for all tokens and one open-addressing index, so that 200,000
// tokens load in milliseconds. Immutable after seal(); then safe to share between threads.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace fulgur::text {

using TokenId = std::uint32_t;

class Vocabulary {
 public:
  /// Defines or replaces the bytes of a token.
  void set(TokenId id, std::string_view bytes);
  /// Builds the index; again after further set() calls. A text shared by two ids belongs to the
  /// id set last.
  void seal();

  /// Largest id plus one; ids in gaps have no bytes.
  std::size_t size() const { return entries_.size(); }
  /// Bytes of a token; empty for an id out of range or in a gap.
  std::string_view bytes(TokenId id) const;
  /// The id whose bytes are `bytes`. Needs seal().
  std::optional<TokenId> find(std::string_view bytes) const;

 private:
  static constexpr TokenId kFree = 0xFFFFFFFFU;
  struct Entry {
    std::size_t begin = 0;
    std::uint32_t length = 0;
    bool present = false;
  };
  void index(TokenId id);
  std::size_t slot_of(std::string_view bytes) const;

  std::string arena_;
  std::vector<Entry> entries_;
  std::vector<TokenId> order_;  // ids in the order of set() since the last seal()
  std::vector<TokenId> slots_;  // power of two, at most half full
};

}  // namespace fulgur::text
