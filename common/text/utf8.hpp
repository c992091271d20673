// UTF-8 as bytes: validation, lossy repair and code points. Invalid input is cut into "maximal
// subparts" (Unicode 15, section 3.9), the same pieces that Rust's from_utf8_lossy replaces.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace fulgur::text::utf8 {

inline constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  ///< U+FFFD

enum class Form { valid, invalid, incomplete };

struct Sequence {
  Form form;
  std::size_t length;  ///< bytes; at least 1
};

/// Classifies the sequence that starts at `position` (< bytes.size()). `incomplete` means that the
/// bytes end inside a sequence that is valid so far.
Sequence sequence_at(std::string_view bytes, std::size_t position);

/// Length in bytes of the longest valid prefix; equal to bytes.size() when all of it is valid.
std::size_t valid_prefix(std::string_view bytes);

/// Appends `bytes` to `out` with every invalid subpart replaced by U+FFFD; stops before an
/// incomplete tail and returns how many bytes were consumed.
std::size_t append_lossy(std::string& out, std::string_view bytes);

/// Length in bytes of the character whose first byte is `lead`; the text must be valid.
std::size_t character_length(char lead);

/// The code point at `position` of valid text.
char32_t code_point_at(std::string_view text, std::size_t position);

/// Appends the encoding of `code_point` (a Unicode scalar value).
void append(std::string& out, char32_t code_point);

/// Start of the last character of valid, non-empty text.
std::size_t last_character(std::string_view text);

/// Unicode's White_Space property.
bool is_space(char32_t code_point);

/// Number of characters of valid text.
std::size_t count(std::string_view text);

}  // namespace fulgur::text::utf8
