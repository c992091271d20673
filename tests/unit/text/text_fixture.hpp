// Where the tests of common/text find tokenizers and goldens; every tokenizer is loaded once.
#pragma once

#include <gtest/gtest.h>

#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string>
#include <vector>

#include "common/base/rng.hpp"
#include "common/text/tokenizer.hpp"
#include "common/text/utf8.hpp"

namespace fulgur::text {

inline std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file) << path;
  std::ostringstream content;
  content << file.rdbuf();
  return std::move(content).str();
}

inline nlohmann::ordered_json read_golden(const std::string& name) {
  return nlohmann::ordered_json::parse(read_file(FULGUR_SOURCE_DIR "/tests/golden/" + name));
}

inline const Tokenizer& load_once(const std::string& path) {
  static std::map<std::string, Tokenizer> loaded;
  auto found = loaded.find(path);
  if (found == loaded.end()) {
    auto tokenizer = Tokenizer::load(path);
    FULGUR_ASSERT(tokenizer.is_ok(), tokenizer.status().to_string());
    found = loaded.emplace(path, std::move(*tokenizer)).first;
  }
  return found->second;
}

inline const Tokenizer& tiny_tokenizer() {
  return load_once(FULGUR_SOURCE_DIR "/models/fulgur-tiny/tokenizer.json");
}

#ifdef FULGUR_M1_TOKENIZER_DIR
inline const Tokenizer& m1_tokenizer() {
  return load_once(FULGUR_M1_TOKENIZER_DIR "/tokenizer.json");
}
#endif

/// Random valid UTF-8 of `characters` characters that favours what tokenizers stumble over.
inline std::string random_text(Rng& rng, std::size_t characters) {
  static constexpr std::string_view kSpecial[] = {" ",        "  ", "\n", "\r\n", "\t", "'s",
                                                  "'LL",      "1",  "42", "<",    ">",  "\xC2\xA0",
                                                  "\xCC\x81", "e",  "A",  "/"};
  std::string out;
  for (std::size_t i = 0; i < characters; ++i) {
    switch (rng.below(6)) {
      case 0:
        out += kSpecial[rng.below(std::size(kSpecial))];
        break;
      case 1:
        utf8::append(out, static_cast<char32_t>(0x80 + rng.below(0x780)));
        break;
      case 2:
        utf8::append(out, static_cast<char32_t>(0x4E00 + rng.below(0x5000)));
        break;
      case 3:
        utf8::append(out, static_cast<char32_t>(0x1F300 + rng.below(0x300)));
        break;
      default:
        out += static_cast<char>('a' + rng.below(26));
        break;
    }
  }
  return out;
}

}  // namespace fulgur::text
