// The stages of a tokenizer as tokenizer.json names them, and the reader that builds them.
#pragma once

#include <string_view>
#include <vector>

#include "common/base/status.hpp"
#include "common/text/added_tokens.hpp"
#include "common/text/bpe.hpp"
#include "common/text/normalizer.hpp"
#include "common/text/pretokenizer.hpp"
#include "common/text/vocabulary.hpp"

namespace fulgur::text {

struct TokenizerParts {
  Vocabulary vocabulary;               ///< bytes of every token, added ones included
  std::vector<bool> special;           ///< [vocab_size]
  AddedTokenMatcher added_raw;         ///< looked for in the text as it came
  AddedTokenMatcher added_normalized;  ///< looked for after normalisation
  Normalizer normalizer;
  Pretokenizer pretokenizer;
  Bpe bpe;
  std::vector<TokenId> prefix, suffix;  ///< what the post_processor puts around a text
};

/// Reads a whole tokenizer.json; messages do not name the file.
Result<TokenizerParts> parse_tokenizer_json(std::string_view json);

}  // namespace fulgur::text
