// Holds back the incomplete tail of the bytes seen so far.
#include "common/text/detokenizer.hpp"

#include "common/text/utf8.hpp"

namespace fulgur::text {

std::string Detokenizer::push(std::uint32_t id) {
  if (skip_special_ && tokenizer_.is_special(id)) return {};
  pending_ += tokenizer_.token_bytes(id);
  std::string text;
  pending_.erase(0, utf8::append_lossy(text, pending_));
  return text;
}

std::string Detokenizer::flush() {
  std::string text(pending_.empty() ? std::string_view() : utf8::kReplacement);
  pending_.clear();
  return text;
}

}  // namespace fulgur::text
