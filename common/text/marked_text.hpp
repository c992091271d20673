// Text of which every byte is marked as trusted (written by the template's author, so control
// tokens in it count) or not (written by a user, so it is characters and nothing else). The marks
// survive concatenation and slicing. A plain value; not synchronised.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace fulgur::text {

class MarkedText {
 public:
  /// Bytes from the end of the run before up to `end` share one mark.
  struct Run {
    std::size_t end;
    bool trusted;
    friend bool operator==(const Run&, const Run&) = default;
  };
  struct Segment {
    std::string text;
    bool trusted;
    friend bool operator==(const Segment&, const Segment&) = default;
  };

  MarkedText() = default;
  MarkedText(std::string_view text, bool trusted) { append(text, trusted); }

  void append(std::string_view text, bool trusted);
  void append(const MarkedText& other) { append(other, 0, other.size()); }
  /// Appends bytes [begin, end) of `other`, which may not be *this.
  void append(const MarkedText& other, std::size_t begin, std::size_t end);
  MarkedText slice(std::size_t begin, std::size_t end) const;

  const std::string& text() const { return text_; }
  std::size_t size() const { return text_.size(); }
  bool empty() const { return text_.empty(); }
  /// True when no byte is untrusted.
  bool all_trusted() const;
  std::span<const Run> runs() const { return runs_; }
  /// Index into runs() of the run that holds byte `position` (< size()).
  std::size_t run_index(std::size_t position) const;
  /// The same text as maximal pieces of one mark each.
  std::vector<Segment> segments() const;

  friend bool operator==(const MarkedText&, const MarkedText&) = default;

 private:
  std::string text_;
  std::vector<Run> runs_;  // neighbours differ in `trusted`; the last one ends at text_.size()
};

}  // namespace fulgur::text
