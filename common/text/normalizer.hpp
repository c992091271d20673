// Unicode normalisation of text before pretokenisation, when tokenizer.json asks for it. Keeps the
// marks of MarkedText. Immutable, safe to share between threads.
#pragma once

#include <vector>

#include "common/text/marked_text.hpp"

namespace fulgur::text {

enum class NormalForm { nfc, nfd, nfkc, nfkd };

class Normalizer {
 public:
  void add(NormalForm form) { forms_.push_back(form); }
  bool empty() const { return forms_.empty(); }
  /// Normalises valid UTF-8.
  MarkedText apply(MarkedText text) const;

 private:
  std::vector<NormalForm> forms_;
};

}  // namespace fulgur::text
