// A byte trie tried at every position whose byte starts a token. Order of checks and the treatment
// of refused matches follow Hugging Face's AddedVocabulary::find_matches.
#include "common/text/added_tokens.hpp"

#include <utf8proc.h>

#include <algorithm>

#include "common/text/utf8.hpp"

namespace fulgur::text {
namespace {

bool is_word_character(char32_t c) {
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_LU:
    case UTF8PROC_CATEGORY_LL:
    case UTF8PROC_CATEGORY_LT:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_LO:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_NL:
    case UTF8PROC_CATEGORY_PC:
      return true;
    default:
      return c == 0x200C || c == 0x200D;  // Join_Control belongs to \w
  }
}

/// True when a word character stands right before `begin` or right after `end`.
bool touches_word(std::string_view text, std::size_t begin, std::size_t end) {
  if (begin > 0) {
    const std::size_t before = utf8::last_character(text.substr(0, begin));
    if (is_word_character(utf8::code_point_at(text, before))) return true;
  }
  return end < text.size() && is_word_character(utf8::code_point_at(text, end));
}

std::size_t skip_space_left(std::string_view text, std::size_t from, std::size_t floor) {
  while (from > floor) {
    const std::size_t before = utf8::last_character(text.substr(0, from));
    if (before < floor || !utf8::is_space(utf8::code_point_at(text, before))) break;
    from = before;
  }
  return from;
}

std::size_t skip_space_right(std::string_view text, std::size_t from) {
  while (from < text.size() && utf8::is_space(utf8::code_point_at(text, from))) {
    from += utf8::character_length(text[from]);
  }
  return from;
}

}  // namespace

void AddedTokenMatcher::add(AddedToken token) {
  if (token.content.empty()) return;
  std::uint32_t node = 0;
  for (const char c : token.content) {
    const auto byte = static_cast<unsigned char>(c);
    std::uint32_t next = child(node, byte);
    if (next == kNone) {
      next = static_cast<std::uint32_t>(nodes_.size());
      nodes_[node].children.emplace_back(byte, next);
      nodes_.emplace_back();
    }
    node = next;
  }
  nodes_[node].token = static_cast<std::uint32_t>(tokens_.size());
  starts_[static_cast<unsigned char>(token.content[0])] = true;
  tokens_.push_back(std::move(token));
}

std::uint32_t AddedTokenMatcher::child(std::uint32_t node, unsigned char byte) const {
  for (const auto& [label, next] : nodes_[node].children) {
    if (label == byte) return next;
  }
  return kNone;
}

const AddedToken* AddedTokenMatcher::longest_at(std::string_view text, std::size_t position,
                                                std::size_t end) const {
  const AddedToken* best = nullptr;
  std::uint32_t node = 0;
  for (; position < end; ++position) {
    node = child(node, static_cast<unsigned char>(text[position]));
    if (node == kNone) break;
    if (nodes_[node].token != kNone) best = &tokens_[nodes_[node].token];
  }
  return best;
}

void AddedTokenMatcher::split(const MarkedText& text, std::size_t begin, std::size_t end,
                              std::vector<TextPart>& parts) const {
  const std::string_view sentence = std::string_view(text.text()).substr(0, end);
  std::size_t done = begin;
  std::size_t position = begin;
  std::size_t run = begin < end ? text.run_index(begin) : 0;
  while (position < end && !empty()) {
    while (text.runs()[run].end <= position) ++run;
    const std::size_t run_end = std::min(text.runs()[run].end, end);
    if (!text.runs()[run].trusted) {
      position = run_end;
      continue;
    }
    const bool may_start = starts_[static_cast<unsigned char>(sentence[position])];
    const AddedToken* token = may_start ? longest_at(sentence, position, run_end) : nullptr;
    if (token == nullptr) {
      ++position;
      continue;
    }
    std::size_t stop = position + token->content.size();
    const std::string_view piece = sentence.substr(begin);
    if (token->single_word && touches_word(piece, position - begin, stop - begin)) {
      position = stop;
      continue;
    }
    std::size_t start = position;
    if (token->lstrip) start = skip_space_left(sentence, start, done);
    if (token->rstrip) stop = skip_space_right(sentence, stop);
    if (start > done) parts.push_back({done, start, std::nullopt});
    parts.push_back({start, stop, token->id});
    done = position = stop;
  }
  if (done < end) parts.push_back({done, end, std::nullopt});
}

}  // namespace fulgur::text
