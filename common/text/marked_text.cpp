// Marks as runs: one entry for each change between trusted and untrusted bytes.
#include "common/text/marked_text.hpp"

#include <algorithm>

namespace fulgur::text {

void MarkedText::append(std::string_view text, bool trusted) {
  if (text.empty()) return;
  text_ += text;
  if (!runs_.empty() && runs_.back().trusted == trusted) {
    runs_.back().end = text_.size();
  } else {
    runs_.push_back({text_.size(), trusted});
  }
}

void MarkedText::append(const MarkedText& other, std::size_t begin, std::size_t end) {
  if (begin >= end) return;
  const std::string_view source = other.text_;
  for (std::size_t i = other.run_index(begin); begin < end; ++i) {
    const std::size_t stop = std::min(other.runs_[i].end, end);
    append(source.substr(begin, stop - begin), other.runs_[i].trusted);
    begin = stop;
  }
}

MarkedText MarkedText::slice(std::size_t begin, std::size_t end) const {
  MarkedText out;
  out.append(*this, begin, end);
  return out;
}

bool MarkedText::all_trusted() const {
  return std::all_of(runs_.begin(), runs_.end(), [](const Run& run) { return run.trusted; });
}

std::size_t MarkedText::run_index(std::size_t position) const {
  const auto run = std::upper_bound(runs_.begin(), runs_.end(), position,
                                    [](std::size_t at, const Run& r) { return at < r.end; });
  return static_cast<std::size_t>(run - runs_.begin());
}

std::vector<MarkedText::Segment> MarkedText::segments() const {
  std::vector<Segment> out;
  std::size_t begin = 0;
  for (const Run& run : runs_) {
    out.push_back({text_.substr(begin, run.end - begin), run.trusted});
    begin = run.end;
  }
  return out;
}

}  // namespace fulgur::text
