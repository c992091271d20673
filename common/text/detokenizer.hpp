// Turns a growing sequence of tokens into text for streaming: what push() returns is final and
// never ends inside a character. Concatenated, the pieces equal Tokenizer::decode of the whole.
// One for each sequence; at most three bytes of state beyond the shared tokenizer.
#pragma once

#include <cstdint>
#include <string>

#include "common/text/tokenizer.hpp"

namespace fulgur::text {

class Detokenizer {
 public:
  explicit Detokenizer(Tokenizer tokenizer, bool skip_special = false)
      : tokenizer_(std::move(tokenizer)), skip_special_(skip_special) {}

  /// The text that `id` completes; empty while a character is unfinished.
  std::string push(std::uint32_t id);
  /// Ends the sequence: an unfinished character becomes U+FFFD. The detokenizer starts afresh.
  std::string flush();

 private:
  Tokenizer tokenizer_;
  bool skip_special_;
  std::string pending_;  // a valid beginning of one character
};

}  // namespace fulgur::text
