// Table-free UTF-8 scanning; eight ASCII bytes are skipped at a time.
#include "common/text/utf8.hpp"

#include <cstdint>
#include <cstring>

namespace fulgur::text::utf8 {
namespace {

struct Lead {
  std::size_t length;       // 0 when the byte cannot start a sequence
  unsigned char low, high;  // bounds of the second byte
};

Lead lead_of(unsigned char byte) {
  if (byte < 0x80) return {1, 0, 0};
  if (byte < 0xC2) return {0, 0, 0};
  if (byte < 0xE0) return {2, 0x80, 0xBF};
  if (byte < 0xF0) {
    const unsigned char low = byte == 0xE0 ? 0xA0 : 0x80;
    const unsigned char high = byte == 0xED ? 0x9F : 0xBF;
    return {3, low, high};
  }
  if (byte < 0xF5) {
    const unsigned char low = byte == 0xF0 ? 0x90 : 0x80;
    const unsigned char high = byte == 0xF4 ? 0x8F : 0xBF;
    return {4, low, high};
  }
  return {0, 0, 0};
}

bool next_eight_are_ascii(std::string_view bytes, std::size_t position) {
  if (position + 8 > bytes.size()) return false;
  std::uint64_t word = 0;
  std::memcpy(&word, bytes.data() + position, 8);
  return (word & 0x8080808080808080ULL) == 0;
}

}  // namespace

Sequence sequence_at(std::string_view bytes, std::size_t position) {
  const Lead lead = lead_of(static_cast<unsigned char>(bytes[position]));
  if (lead.length == 0) return {Form::invalid, 1};
  for (std::size_t i = 1; i < lead.length; ++i) {
    if (position + i >= bytes.size()) return {Form::incomplete, i};
    const auto byte = static_cast<unsigned char>(bytes[position + i]);
    const unsigned char low = i == 1 ? lead.low : 0x80;
    const unsigned char high = i == 1 ? lead.high : 0xBF;
    if (byte < low || byte > high) return {Form::invalid, i};
  }
  return {Form::valid, lead.length};
}

std::size_t valid_prefix(std::string_view bytes) {
  std::size_t position = 0;
  while (position < bytes.size()) {
    if (next_eight_are_ascii(bytes, position)) {
      position += 8;
      continue;
    }
    const Sequence sequence = sequence_at(bytes, position);
    if (sequence.form != Form::valid) return position;
    position += sequence.length;
  }
  return position;
}

std::size_t append_lossy(std::string& out, std::string_view bytes) {
  std::size_t position = 0;
  while (position < bytes.size()) {
    const std::size_t valid = valid_prefix(bytes.substr(position));
    out.append(bytes, position, valid);
    position += valid;
    if (position == bytes.size()) break;
    const Sequence sequence = sequence_at(bytes, position);
    if (sequence.form == Form::incomplete) break;
    out += kReplacement;
    position += sequence.length;
  }
  return position;
}

std::size_t character_length(char lead) {
  const auto byte = static_cast<unsigned char>(lead);
  if (byte < 0x80) return 1;
  if (byte < 0xE0) return 2;
  return byte < 0xF0 ? 3 : 4;
}

char32_t code_point_at(std::string_view text, std::size_t position) {
  const std::size_t length = character_length(text[position]);
  const auto byte = [&](std::size_t i) {
    return static_cast<char32_t>(static_cast<unsigned char>(text[position + i]));
  };
  if (length == 1) return byte(0);
  char32_t value = byte(0) & (0xFFU >> (length + 1));
  for (std::size_t i = 1; i < length; ++i) value = (value << 6) | (byte(i) & 0x3FU);
  return value;
}

void append(std::string& out, char32_t code_point) {
  const auto put = [&](char32_t byte) { out += static_cast<char>(byte); };
  if (code_point < 0x80) {
    put(code_point);
  } else if (code_point < 0x800) {
    put(0xC0 | (code_point >> 6));
    put(0x80 | (code_point & 0x3F));
  } else if (code_point < 0x10000) {
    put(0xE0 | (code_point >> 12));
    put(0x80 | ((code_point >> 6) & 0x3F));
    put(0x80 | (code_point & 0x3F));
  } else {
    put(0xF0 | (code_point >> 18));
    put(0x80 | ((code_point >> 12) & 0x3F));
    put(0x80 | ((code_point >> 6) & 0x3F));
    put(0x80 | (code_point & 0x3F));
  }
}

std::size_t last_character(std::string_view text) {
  std::size_t position = text.size() - 1;
  while (position > 0 && (static_cast<unsigned char>(text[position]) & 0xC0U) == 0x80) --position;
  return position;
}

bool is_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

std::size_t count(std::string_view text) {
  std::size_t characters = 0;
  for (const char byte : text) {
    if ((static_cast<unsigned char>(byte) & 0xC0U) != 0x80) ++characters;
  }
  return characters;
}

}  // namespace fulgur::text::utf8
