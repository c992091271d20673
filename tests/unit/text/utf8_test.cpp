// UTF-8 scanning at its edges, and marks of text through concatenation and slicing.
#include "common/text/utf8.hpp"

#include <gtest/gtest.h>

#include "common/base/rng.hpp"
#include "common/text/marked_text.hpp"

namespace fulgur::text {
namespace {

std::string lossy(std::string_view bytes) {
  std::string out;
  const std::size_t used = utf8::append_lossy(out, bytes);
  return out + std::string(bytes.substr(used).empty() ? "" : "|");
}

TEST(Utf8, EveryScalarValueRoundTrips) {
  for (char32_t c = 0; c < 0x110000; ++c) {
    if (c >= 0xD800 && c < 0xE000) continue;
    std::string text;
    utf8::append(text, c);
    ASSERT_EQ(utf8::valid_prefix(text), text.size());
    ASSERT_EQ(utf8::character_length(text[0]), text.size());
    ASSERT_EQ(utf8::code_point_at(text, 0), c);
  }
}

TEST(Utf8, RefusesOverlongSurrogateAndOutOfRange) {
  for (const std::string_view bytes : {"\xC0\x80", "\xC1\xBF", "\xE0\x9F\xBF", "\xED\xA0\x80",
                                       "\xF0\x8F\xBF\xBF", "\xF4\x90\x80\x80", "\xF5", "\x80"}) {
    EXPECT_EQ(utf8::valid_prefix(bytes), 0U);
  }
}

TEST(Utf8, ReplacesMaximalSubparts) {
  const std::string r(utf8::kReplacement);
  EXPECT_EQ(lossy("a\xFF"
                  "b"),
            "a" + r + "b");
  EXPECT_EQ(lossy("\xE4\xBD"
                  "a"),
            r + "a");
  EXPECT_EQ(lossy("\xED\xA0\x80"), r + r + r);
  EXPECT_EQ(lossy("\xF0\x9F\x98\xF0\x9F\x98\x80"), r + "\xF0\x9F\x98\x80");
  EXPECT_EQ(lossy("ok\xF0\x9F\x98"), "ok|");
}

TEST(MarkedText, SlicesAndConcatenatesExactly) {
  Rng rng(5);
  for (int round = 0; round < 200; ++round) {
    MarkedText text;
    std::string bytes, marks;
    for (int i = 0; i < 8; ++i) {
      const std::string part(rng.below(4), static_cast<char>('a' + i));
      const bool trusted = rng.below(2) == 0;
      text.append(part, trusted);
      bytes += part;
      marks += std::string(part.size(), trusted ? 't' : 'u');
    }
    const std::size_t begin = rng.below(bytes.size() + 1);
    const std::size_t end = begin + rng.below(bytes.size() - begin + 1);
    MarkedText twice = text.slice(begin, end);
    twice.append(text);
    std::string seen;
    for (const auto& segment : twice.segments()) {
      seen += std::string(segment.text.size(), segment.trusted ? 't' : 'u');
    }
    ASSERT_EQ(twice.text(), bytes.substr(begin, end - begin) + bytes);
    ASSERT_EQ(seen, marks.substr(begin, end - begin) + marks);
  }
}

TEST(MarkedText, NeighboursWithOneMarkAreOneRun) {
  MarkedText text("a", true);
  text.append("b", true);
  text.append("", false);
  text.append("c", false);
  EXPECT_EQ(text.runs().size(), 2U);
  EXPECT_FALSE(text.all_trusted());
  EXPECT_EQ(text.segments(), (std::vector<MarkedText::Segment>{{"ab", true}, {"c", false}}));
}

}  // namespace
}  // namespace fulgur::text
