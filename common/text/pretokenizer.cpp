// Each split sees one piece at a time: a lookahead at the end of a piece sees the end of text.
#include "common/text/pretokenizer.hpp"

#include <algorithm>

#include "common/text/utf8.hpp"

namespace fulgur::text {
namespace {

/// Collects the alternating pieces of one subject and joins them as the behaviour says.
class PieceJoiner {
 public:
  PieceJoiner(std::string_view subject, const Pretokenizer::Split& split,
              std::vector<std::string_view>& out)
      : subject_(subject), split_(split), out_(out), first_(out.size()) {}

  void add(std::size_t begin, std::size_t end, bool match) {
    match = match != split_.invert;
    const std::string_view piece = subject_.substr(begin, end - begin);
    const bool has_last = out_.size() > first_;
    switch (split_.behavior) {
      case SplitBehavior::isolated:
        push(piece);
        break;
      case SplitBehavior::removed:
        if (!match) push(piece);
        break;
      case SplitBehavior::merged_with_previous:
        match && !previous_match_ && has_last ? extend(piece) : push(piece);
        break;
      case SplitBehavior::merged_with_next:
        // Seen from the front: a piece joins a match before it, unless that match was followed by
        // another match.
        previous_match_ && !match && has_last ? extend(piece) : push(piece);
        break;
      case SplitBehavior::contiguous:
        match == previous_match_&& has_last ? extend(piece) : push(piece);
        break;
    }
    previous_match_ = match;
  }

  /// Empty pieces only mark boundaries; nothing downstream wants them.
  void finish() {
    const auto begin = out_.begin() + static_cast<std::ptrdiff_t>(first_);
    out_.erase(std::remove_if(begin, out_.end(), [](std::string_view w) { return w.empty(); }),
               out_.end());
  }

 private:
  void push(std::string_view piece) { out_.push_back(piece); }
  void extend(std::string_view piece) {
    out_.back() = {out_.back().data(), out_.back().size() + piece.size()};
  }

  std::string_view subject_;
  const Pretokenizer::Split& split_;
  std::vector<std::string_view>& out_;
  std::size_t first_;
  bool previous_match_ = false;
};

Status split_piece(const Pretokenizer::Split& split, std::string_view subject,
                   Regex::Scratch& scratch, std::vector<std::string_view>& out) {
  PieceJoiner joiner(subject, split, out);
  std::size_t done = 0;
  std::size_t from = 0;
  while (from <= subject.size()) {
    FULGUR_ASSIGN_OR_RETURN(const std::optional<Regex::Match> match,
                            split.pattern.find(subject, from, scratch));
    if (!match) break;
    if (match->begin > done) joiner.add(done, match->begin, false);
    joiner.add(match->begin, match->end, true);
    done = match->end;
    from = match->end;
    if (match->begin == match->end) {  // an empty match may not be found again
      from += from < subject.size() ? utf8::character_length(subject[from]) : 1;
    }
  }
  if (done < subject.size()) joiner.add(done, subject.size(), false);
  joiner.finish();
  return Status::ok();
}

}  // namespace

Status Pretokenizer::split(std::string_view piece, Scratch& scratch,
                           std::vector<std::string_view>& words) const {
  words.assign(1, piece);
  scratch.prefixed.clear();
  for (std::size_t i = 0; i <= splits_.size(); ++i) {
    if (i == prefix_after_) add_prefix_space(scratch, words);
    if (i == splits_.size()) break;
    scratch.next.clear();
    for (const std::string_view word : words) {
      FULGUR_RETURN_IF_ERROR(split_piece(splits_[i], word, scratch.regex, scratch.next));
    }
    words.swap(scratch.next);
  }
  return Status::ok();
}

void Pretokenizer::add_prefix_space(Scratch& scratch, std::vector<std::string_view>& words) {
  for (std::string_view& word : words) {
    if (word.starts_with(' ')) continue;
    word = scratch.prefixed.emplace_back(" " + std::string(word));
  }
}

}  // namespace fulgur::text
