// Recognises the "added tokens" of tokenizer.json in text, before pretokenisation: control tokens
// and whole words, leftmost-longest, only where the text is trusted. Immutable after loading, safe
// to share between threads.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "common/text/marked_text.hpp"
#include "common/text/vocabulary.hpp"

namespace fulgur::text {

struct AddedToken {
  TokenId id = 0;
  std::string content;
  bool special = false;      ///< a control token: hidden by decode(skip_special)
  bool single_word = false;  ///< only where no word character touches it
  bool lstrip = false;       ///< swallows white space before it
  bool rstrip = false;       ///< swallows white space after it
  bool normalized = false;   ///< looked for after normalisation instead of before
};

/// A part of a text: an added token, or bytes [begin, end) still to be tokenized.
struct TextPart {
  std::size_t begin, end;
  std::optional<TokenId> token;
};

class AddedTokenMatcher {
 public:
  void add(AddedToken token);
  bool empty() const { return tokens_.empty(); }

  /// Appends the parts of bytes [begin, end) of `text`, in order, none empty.
  void split(const MarkedText& text, std::size_t begin, std::size_t end,
             std::vector<TextPart>& parts) const;

 private:
  static constexpr std::uint32_t kNone = 0xFFFFFFFFU;
  struct Node {
    std::vector<std::pair<unsigned char, std::uint32_t>> children;
    std::uint32_t token = kNone;  // index into tokens_
  };
  std::uint32_t child(std::uint32_t node, unsigned char byte) const;
  /// The longest token that starts at `position` and ends at or before `end`.
  const AddedToken* longest_at(std::string_view text, std::size_t position, std::size_t end) const;

  std::vector<AddedToken> tokens_;
  std::vector<Node> nodes_ = std::vector<Node>(1);  // a trie; node 0 is the root
  std::array<bool, 256> starts_{};
};

}  // namespace fulgur::text
