// Python's string methods on MarkedText. Every byte of a result keeps the mark of the byte it came
// from. Positions and counts are bytes; pieces are cut between characters.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <vector>

#include "common/text/marked_text.hpp"

namespace fulgur::text::jinja {

enum class Side { left, right, both };

/// Without `characters`: white space.
MarkedText strip(const MarkedText& text, Side side, std::optional<std::string_view> characters);
/// At most `limit` cuts (negative: all), counted from the right for split_right. Without a
/// separator: at runs of white space, none at the ends. A separator may not be empty.
std::vector<MarkedText> split(const MarkedText& text, std::optional<std::string_view> separator,
                              std::int64_t limit);
std::vector<MarkedText> split_right(const MarkedText& text,
                                    std::optional<std::string_view> separator, std::int64_t limit);
std::vector<MarkedText> split_lines(const MarkedText& text);
/// Replaces the first `limit` places (negative: all).
MarkedText replace(const MarkedText& text, std::string_view from, const MarkedText& to,
                   std::int64_t limit);
MarkedText to_upper(const MarkedText& text);
MarkedText to_lower(const MarkedText& text);
/// First character upper case, the rest lower.
MarkedText capitalize(const MarkedText& text);
/// Python's str.title: every run of letters capitalised.
MarkedText to_title(const MarkedText& text);
/// Jinja2's filter title: a word begins after white space, a hyphen or an opening bracket.
MarkedText capitalize_words(const MarkedText& text);
/// The characters as one-character texts.
std::vector<MarkedText> characters(const MarkedText& text);
MarkedText reversed(const MarkedText& text);
/// `&<>'"` as HTML entities.
MarkedText escape_html(const MarkedText& text);
bool is_letter(char32_t c);
bool is_python_space(char32_t c);

}  // namespace fulgur::text::jinja
