// Cuts text into words before BPE, as the "pre_tokenizer" of tokenizer.json says: Split and Digits
// steps, then ByteLevel. Immutable after loading, safe to share between threads.
#pragma once

#include <deque>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/status.hpp"
#include "common/text/regex.hpp"

namespace fulgur::text {

/// What becomes of the pieces that match a Split pattern (Hugging Face's SplitDelimiterBehavior).
enum class SplitBehavior { isolated, removed, merged_with_previous, merged_with_next, contiguous };

class Pretokenizer {
 public:
  struct Split {
    Regex pattern;
    SplitBehavior behavior = SplitBehavior::isolated;
    bool invert = false;  ///< pieces between matches count as the matches
  };

  /// Memory of one encode call; views that split() returns may point into it.
  struct Scratch {
    Regex::Scratch regex;
    std::vector<std::string_view> next;
    std::deque<std::string> prefixed;
  };

  void add_split(Split split) { splits_.push_back(std::move(split)); }
  /// ByteLevel's add_prefix_space: a piece that does not start with a space gets one. Splits
  /// [0, before) see the piece without it, the later ones with it.
  void set_prefix_space() { prefix_after_ = splits_.size(); }

  /// Replaces `words` by the words of `piece` (valid UTF-8, not empty). Fails only when a pattern
  /// exceeds its limits.
  Status split(std::string_view piece, Scratch& scratch,
               std::vector<std::string_view>& words) const;

 private:
  static constexpr std::size_t kNoPrefix = ~std::size_t{0};
  static void add_prefix_space(Scratch& scratch, std::vector<std::string_view>& words);

  std::vector<Split> splits_;
  std::size_t prefix_after_ = kNoPrefix;
};

}  // namespace fulgur::text
