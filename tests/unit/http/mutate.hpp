// Damage from a seed, for tests of what reads bytes of strangers: flipped, overwritten, cut,
// doubled and moved pieces, and words of the format where they do not belong.
#pragma once

#include <algorithm>
#include <cstddef>
#include <span>
#include <string>
#include <string_view>

#include "common/base/rng.hpp"

namespace fulgur::http::testing {

/// One change of `bytes`; of an empty text, a word put into it.
inline std::string mutate_once(std::string bytes, std::span<const std::string_view> words,
                               Rng& rng) {
  const std::size_t at = rng.below(bytes.size() + 1);
  // Mostly short pieces: a long one leaves little to read.
  const std::size_t length =
      std::min<std::size_t>(1 + rng.below(rng.below(24) + 1), bytes.size() - at);
  const std::string_view word = words[rng.below(words.size())];
  switch (rng.below(length == 0 ? 1 : 7)) {
    case 0:
      return bytes.insert(at, word);
    case 1:
      return bytes.replace(at, length, word);
    case 2:
      return bytes.erase(at, length);
    case 3:
      return bytes.insert(at, bytes.substr(at, length));
    case 4:
      return bytes.insert(rng.below(bytes.size() + 1), bytes.substr(at, length));
    case 5:
      bytes[at] = static_cast<char>(bytes[at] ^ (1 << rng.below(8)));
      return bytes;
    default:
      bytes[at] = static_cast<char>(rng.below(256));
      return bytes;
  }
}

/// One to four changes; in one of eight cases the text is cut somewhere or comes twice.
inline std::string mutate(std::string bytes, std::span<const std::string_view> words, Rng& rng) {
  for (std::uint64_t left = 1 + rng.below(4); left > 0; --left)
    bytes = mutate_once(std::move(bytes), words, rng);
  switch (rng.below(16)) {
    case 0:
      return bytes.substr(0, rng.below(bytes.size() + 1));
    case 1:
      return bytes + bytes;
    default:
      return bytes;
  }
}

}  // namespace fulgur::http::testing
