// The inverse table is computed once; every character of the alphabet is below U+0144.
#include "common/text/byte_alphabet.hpp"

#include <array>
#include <cstdint>

#include "common/text/utf8.hpp"

namespace fulgur::text {
namespace {

constexpr std::size_t kAlphabetEnd = 0x144;
constexpr std::int16_t kNone = -1;

constexpr bool stands_for_itself(std::size_t byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

constexpr std::array<std::int16_t, kAlphabetEnd> make_inverse() {
  std::array<std::int16_t, kAlphabetEnd> inverse{};
  for (auto& entry : inverse) entry = kNone;
  std::size_t next = 0x100;
  for (std::size_t byte = 0; byte < 256; ++byte) {
    inverse[stands_for_itself(byte) ? byte : next++] = static_cast<std::int16_t>(byte);
  }
  return inverse;
}

constexpr auto kInverse = make_inverse();

}  // namespace

void append_spelled_bytes(std::string& out, std::string_view spelling) {
  const std::size_t start = out.size();
  for (std::size_t i = 0; i < spelling.size(); i += utf8::character_length(spelling[i])) {
    const char32_t c = utf8::code_point_at(spelling, i);
    if (c >= kAlphabetEnd || kInverse[c] == kNone) {
      out.resize(start);
      out += spelling;
      return;
    }
    out += static_cast<char>(kInverse[c]);
  }
}

}  // namespace fulgur::text
