// Everything is made of slices, so marks need no thought here.
#include "common/text/jinja/text_operations.hpp"

#include <utf8proc.h>

#include <algorithm>

#include "common/text/utf8.hpp"

namespace fulgur::text::jinja {
namespace {

/// Calls visit(code point, begin, end) for every character.
template <class Visit>
void for_each_character(const MarkedText& text, Visit visit) {
  const std::string& bytes = text.text();
  for (std::size_t i = 0; i < bytes.size();) {
    const std::size_t end = i + utf8::character_length(bytes[i]);
    visit(utf8::code_point_at(bytes, i), i, end);
    i = end;
  }
}

/// Applies `map` to every character; a result takes the mark of its character.
template <class Map>
MarkedText map_characters(const MarkedText& text, Map map) {
  MarkedText out;
  std::size_t run = 0;
  std::string mapped;
  for_each_character(text, [&](char32_t c, std::size_t begin, std::size_t) {
    while (text.runs()[run].end <= begin) ++run;
    mapped.clear();
    utf8::append(mapped, map(c));
    out.append(mapped, text.runs()[run].trusted);
  });
  return out;
}

char32_t upper(char32_t c) {
  return static_cast<char32_t>(utf8proc_toupper(static_cast<utf8proc_int32_t>(c)));
}
char32_t lower(char32_t c) {
  return static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c)));
}

std::vector<MarkedText> split_at_space(const MarkedText& text, std::int64_t limit) {
  std::vector<MarkedText> out;
  std::size_t word = std::string::npos;  // begin of the current word
  bool rest = false;                     // the limit is reached: the rest is one word
  for_each_character(text, [&](char32_t c, std::size_t begin, std::size_t) {
    const bool space = is_python_space(c);
    if (!space && word == std::string::npos) {
      word = begin;
      rest = limit >= 0 && static_cast<std::int64_t>(out.size()) >= limit;
    } else if (space && word != std::string::npos && !rest) {
      out.push_back(text.slice(word, begin));
      word = std::string::npos;
    }
  });
  if (word != std::string::npos) out.push_back(text.slice(word, text.size()));
  return out;
}

}  // namespace

bool is_python_space(char32_t c) { return utf8::is_space(c) || (c >= 0x1C && c <= 0x1F); }

bool is_letter(char32_t c) {
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
      return true;
    default:
      return false;
  }
}

MarkedText strip(const MarkedText& text, Side side, std::optional<std::string_view> characters) {
  const std::string_view bytes = text.text();
  const auto strips = [&](std::size_t at) {
    if (!characters) return is_python_space(utf8::code_point_at(bytes, at));
    return characters->find(bytes.substr(at, utf8::character_length(bytes[at]))) !=
           std::string_view::npos;
  };
  std::size_t begin = 0, end = bytes.size();
  while (side != Side::right && begin < end && strips(begin)) {
    begin += utf8::character_length(bytes[begin]);
  }
  while (side != Side::left && begin < end) {
    const std::size_t last = utf8::last_character(bytes.substr(0, end));
    if (!strips(last)) break;
    end = last;
  }
  return text.slice(begin, end);
}

std::vector<MarkedText> split(const MarkedText& text, std::optional<std::string_view> separator,
                              std::int64_t limit) {
  if (!separator) return split_at_space(text, limit);
  std::vector<MarkedText> out;
  std::size_t begin = 0;
  while (limit < 0 || static_cast<std::int64_t>(out.size()) < limit) {
    const std::size_t found = text.text().find(*separator, begin);
    if (found == std::string::npos) break;
    out.push_back(text.slice(begin, found));
    begin = found + separator->size();
  }
  out.push_back(text.slice(begin, text.size()));
  return out;
}

std::vector<MarkedText> split_right(const MarkedText& text,
                                    std::optional<std::string_view> separator, std::int64_t limit) {
  if (limit < 0) return split(text, separator, limit);
  std::vector<MarkedText> out;
  MarkedText rest = text;
  if (!separator) rest = strip(rest, Side::right, std::nullopt);
  while (static_cast<std::int64_t>(out.size()) < limit) {
    std::size_t found = std::string::npos, length = 0;
    if (separator) {
      found = rest.text().rfind(*separator);
      length = separator->size();
    } else {
      for_each_character(rest, [&](char32_t c, std::size_t begin, std::size_t end) {
        if (is_python_space(c)) found = begin, length = end - begin;
      });
    }
    if (found == std::string::npos) break;
    out.push_back(rest.slice(found + length, rest.size()));
    rest = rest.slice(0, found);
    if (!separator) rest = strip(rest, Side::right, std::nullopt);
  }
  if (separator || !rest.empty()) out.push_back(rest);
  std::reverse(out.begin(), out.end());
  return out;
}

std::vector<MarkedText> split_lines(const MarkedText& text) {
  std::vector<MarkedText> out;
  const std::string& bytes = text.text();
  std::size_t begin = 0;
  while (begin < bytes.size()) {
    const std::size_t end = std::min(bytes.find_first_of("\n\r", begin), bytes.size());
    out.push_back(text.slice(begin, end));
    begin = end + (bytes.compare(end, 2, "\r\n") == 0 ? 2 : 1);
  }
  return out;
}

MarkedText replace(const MarkedText& text, std::string_view from, const MarkedText& to,
                   std::int64_t limit) {
  MarkedText out;
  const std::string& bytes = text.text();
  std::size_t begin = 0;
  for (std::int64_t done = 0; limit < 0 || done < limit; ++done) {
    std::size_t found = bytes.find(from, begin);
    if (found == std::string::npos || begin > bytes.size()) break;
    if (from.empty()) {  // between all characters, as in Python
      out.append(to);
      if (begin == bytes.size()) return out;
      found = begin + utf8::character_length(bytes[begin]);
      out.append(text, begin, found);
      begin = found;
      continue;
    }
    out.append(text, begin, found);
    out.append(to);
    begin = found + from.size();
  }
  out.append(text, begin, text.size());
  return out;
}

MarkedText to_upper(const MarkedText& text) { return map_characters(text, upper); }
MarkedText to_lower(const MarkedText& text) { return map_characters(text, lower); }

MarkedText capitalize(const MarkedText& text) {
  return map_characters(text, [first = true](char32_t c) mutable {
    const char32_t mapped = first ? upper(c) : lower(c);
    first = false;
    return mapped;
  });
}

MarkedText to_title(const MarkedText& text) {
  return map_characters(text, [inside = false](char32_t c) mutable {
    const char32_t mapped = inside ? lower(c) : upper(c);
    inside = is_letter(c);
    return mapped;
  });
}

MarkedText capitalize_words(const MarkedText& text) {
  return map_characters(text, [inside = false](char32_t c) mutable {
    const char32_t mapped = inside ? lower(c) : upper(c);
    inside = !is_python_space(c) && c != '-' && c != '(' && c != '{' && c != '[' && c != '<';
    return mapped;
  });
}

std::vector<MarkedText> characters(const MarkedText& text) {
  std::vector<MarkedText> out;
  for_each_character(text, [&](char32_t, std::size_t begin, std::size_t end) {
    out.push_back(text.slice(begin, end));
  });
  return out;
}

MarkedText reversed(const MarkedText& text) {
  MarkedText out;
  const std::vector<MarkedText> all = characters(text);
  for (auto c = all.rbegin(); c != all.rend(); ++c) out.append(*c);
  return out;
}

MarkedText escape_html(const MarkedText& text) {
  MarkedText out;
  for (const auto& segment : text.segments()) {
    for (const char c : segment.text) {
      switch (c) {
        case '&':
          out.append("&amp;", segment.trusted);
          break;
        case '<':
          out.append("&lt;", segment.trusted);
          break;
        case '>':
          out.append("&gt;", segment.trusted);
          break;
        case '\'':
          out.append("&#39;", segment.trusted);
          break;
        case '"':
          out.append("&#34;", segment.trusted);
          break;
        default:
          out.append({&c, 1}, segment.trusted);
      }
    }
  }
  return out;
}

}  // namespace fulgur::text::jinja
