// One pass over the source; the rules follow Jinja2's lexer.py, where each is a regular expression.
#include "common/text/jinja/lexer.hpp"

#include <algorithm>
#include <array>

#include "common/text/utf8.hpp"

namespace fulgur::text::jinja {
namespace {

constexpr std::string_view kSpace = " \t\n\r\f\v";

bool is_digit(char c) { return c >= '0' && c <= '9'; }
bool is_name_start(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; }
bool is_name_part(char c) { return is_name_start(c) || is_digit(c); }

/// Newlines become \n and one newline at the end is dropped.
std::string normalize_newlines(std::string_view source) {
  std::string out;
  out.reserve(source.size());
  for (std::size_t i = 0; i < source.size(); ++i) {
    if (source[i] != '\r') {
      out += source[i];
    } else {
      out += '\n';
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    }
  }
  if (out.ends_with('\n')) out.pop_back();
  return out;
}

class Lexer {
 public:
  explicit Lexer(std::string_view source) : text_(normalize_newlines(source)) {}

  std::vector<Token> run() {
    try {
      while (position_ < text_.size()) step();
    } catch (TemplateError& fault) {
      fault.locate(location(position_));
      throw;
    }
    emit(Token::Type::end, "", position_);
    return std::move(tokens_);
  }

 private:
  // --- text between tags ----------------------------------------------------------------------

  void step() {
    const std::size_t tag = find_tag();
    std::string_view data = view().substr(position_, tag - position_);
    if (tag == text_.size()) {
      emit(Token::Type::data, std::string(data), position_);
      position_ = tag;
      return;
    }
    emit_data(data, tag);
    position_ = tag;
    const char kind = text_[tag + 1];
    if (kind == '#') {
      skip_comment();
    } else if (kind == '{') {
      lex_print();
    } else if (!lex_raw()) {
      lex_block();
    }
    line_starting_ = position_ > 0 && text_[position_ - 1] == '\n';
  }

  std::string_view view() const { return text_; }

  std::size_t find_tag() const {
    for (std::size_t i = text_.find('{', position_); i != std::string::npos;
         i = text_.find('{', i + 1)) {
      const char next = i + 1 < text_.size() ? text_[i + 1] : '\0';
      if (next == '{' || next == '%' || next == '#') return i;
    }
    return text_.size();
  }

  /// Emits the text before the tag at `tag`, stripped as the tag's sign and lstrip_blocks say.
  void emit_data(std::string_view data, std::size_t tag) {
    const char sign = sign_at(tag + 2);
    if (sign == '-') {
      const std::size_t last = data.find_last_not_of(kSpace);
      data = data.substr(0, last == std::string_view::npos ? 0 : last + 1);
    } else if (sign != '+' && text_[tag + 1] != '{') {
      const std::size_t newline = data.rfind('\n');
      const bool has_line = newline != std::string_view::npos || line_starting_;
      const std::size_t line = newline == std::string_view::npos ? 0 : newline + 1;
      if (has_line && data.find_first_not_of(" \t", line) == std::string_view::npos) {
        data = data.substr(0, line);
      }
    }
    if (!data.empty()) emit(Token::Type::data, std::string(data), position_);
  }

  char sign_at(std::size_t at) const {
    const char c = at < text_.size() ? text_[at] : '\0';
    return c == '-' || c == '+' ? c : '\0';
  }

  /// After an end tag whose sign was `sign`: all white space, or the newline of trim_blocks.
  void skip_after(char sign, bool trim_newline) {
    if (sign == '-') {
      position_ = std::min(text_.find_first_not_of(kSpace, position_), text_.size());
    } else if (sign == '\0' && trim_newline && position_ < text_.size() &&
               text_[position_] == '\n') {
      ++position_;
    }
  }

  void skip_comment() {
    const std::size_t end = text_.find("#}", position_ + 2);
    if (end == std::string::npos) fail("comment is not closed");
    const char sign = end > position_ + 2 ? sign_at(end - 1) : '\0';
    position_ = end + 2;
    skip_after(sign, true);
  }

  // --- raw blocks -----------------------------------------------------------------------------

  /// Matches `{% word %}` at `at`; returns the position after it, its end sign in `sign`.
  std::size_t match_word_tag(std::size_t at, std::string_view word, char& sign) const {
    std::size_t i = at + 2;
    if (sign_at(i) != '\0') ++i;
    i = std::min(text_.find_first_not_of(kSpace, i), text_.size());
    if (view().substr(i, word.size()) != word) return 0;
    i = std::min(text_.find_first_not_of(kSpace, i + word.size()), text_.size());
    sign = sign_at(i);
    if (sign != '\0') ++i;
    return view().substr(i, 2) == "%}" ? i + 2 : 0;
  }

  bool lex_raw() {
    char sign = '\0';
    const std::size_t after = match_word_tag(position_, "raw", sign);
    if (after == 0) return false;
    const std::size_t opened = position_;
    position_ = after;
    skip_after(sign, false);
    line_starting_ = text_[position_ - 1] == '\n';
    for (std::size_t tag = text_.find("{%", position_); tag != std::string::npos;
         tag = text_.find("{%", tag + 2)) {
      const std::size_t end = match_word_tag(tag, "endraw", sign);
      if (end == 0) continue;
      emit_data(view().substr(position_, tag - position_), tag);
      position_ = end;
      skip_after(sign, true);
      return true;
    }
    position_ = opened;
    fail("raw block is not closed");
  }

  // --- tags -----------------------------------------------------------------------------------

  void lex_print() {
    emit(Token::Type::print_begin, "{{", position_);
    const char sign = lex_until("}}");
    emit(Token::Type::print_end, "}}", position_ - 2);
    skip_after(sign, false);
  }

  void lex_block() {
    emit(Token::Type::block_begin, "{%", position_);
    const char sign = lex_until("%}");
    emit(Token::Type::block_end, "%}", position_ - 2);
    skip_after(sign, true);
  }

  /// Lexes expression tokens up to and over `close`; returns the sign before it.
  char lex_until(std::string_view close) {
    const std::size_t opened = position_;
    position_ += 2;
    if (sign_at(position_) != '\0') ++position_;
    std::size_t depth = 0;
    while (true) {
      position_ = std::min(text_.find_first_not_of(kSpace, position_), text_.size());
      if (position_ == text_.size()) {
        position_ = opened;
        fail("tag is not closed, {} is missing", close);
      }
      if (depth == 0) {
        const char sign = sign_at(position_);
        const std::size_t at = position_ + (sign != '\0' ? 1 : 0);
        if (view().substr(at, 2) == close) {
          position_ = at + 2;
          return sign;
        }
      }
      lex_token(depth);
    }
  }

  void lex_token(std::size_t& depth) {
    const std::size_t start = position_;
    const char c = text_[start];
    if (is_name_start(c)) {
      while (position_ < text_.size() && is_name_part(text_[position_])) ++position_;
      emit(Token::Type::name, text_.substr(start, position_ - start), start);
    } else if (is_digit(c)) {
      lex_number();
    } else if (c == '\'' || c == '"') {
      lex_string(c);
    } else {
      lex_operator(depth);
    }
  }

  void take_digits(std::string& digits) {
    while (position_ < text_.size() && (is_digit(text_[position_]) || text_[position_] == '_')) {
      if (text_[position_] != '_') digits += text_[position_];
      ++position_;
    }
  }

  char peek(std::size_t ahead) const {
    return position_ + ahead < text_.size() ? text_[position_ + ahead] : '\0';
  }

  void lex_number() {
    const std::size_t start = position_;
    std::string digits;
    bool real = false;
    take_digits(digits);
    if (peek(0) == '.' && is_digit(peek(1))) {
      real = true;
      digits += text_[position_++];
      take_digits(digits);
    }
    const std::size_t sign = peek(1) == '+' || peek(1) == '-' ? 1 : 0;
    if ((peek(0) == 'e' || peek(0) == 'E') && is_digit(peek(1 + sign))) {
      real = true;
      digits.append(text_, position_, 1 + sign);
      position_ += 1 + sign;
      take_digits(digits);
    }
    emit(real ? Token::Type::real : Token::Type::integer, std::move(digits), start);
  }

  void lex_string(char quote) {
    const std::size_t start = position_++;
    std::string value;
    while (true) {
      if (position_ >= text_.size()) {
        position_ = start;
        fail("string is not closed");
      }
      const char c = text_[position_++];
      if (c == quote) break;
      if (c == '\\' && position_ < text_.size()) {
        lex_escape(value);
      } else {
        value += c;
      }
    }
    emit(Token::Type::string, std::move(value), start);
  }

  /// Python's unicode-escape; an unknown escape keeps its backslash.
  void lex_escape(std::string& value) {
    static constexpr std::string_view kNames = "ntr\\'\"abfv0";
    static constexpr std::string_view kValues("\n\t\r\\'\"\a\b\f\v\0", 11);
    const char c = text_[position_++];
    if (const std::size_t known = kNames.find(c); known != std::string_view::npos) {
      value += kValues[known];
    } else if (c == 'x' || c == 'u' || c == 'U') {
      lex_code_point(value, c == 'x' ? 2 : c == 'u' ? 4 : 8);
    } else if (c != '\n') {
      value += '\\';
      value += c;
    }
  }

  void lex_code_point(std::string& value, std::size_t digits) {
    char32_t code = 0;
    for (std::size_t i = 0; i < digits; ++i) {
      const char c = peek(0);
      const bool letter = (c >= 'a' && c <= 'f') || (c >= 'A' && c <= 'F');
      if (!is_digit(c) && !letter) fail("escape needs {} hexadecimal digits", digits);
      code = code * 16 + static_cast<char32_t>(is_digit(c) ? c - '0' : (c | 0x20) - 'a' + 10);
      ++position_;
    }
    if (code > 0x10FFFF || (code >= 0xD800 && code < 0xE000)) fail("escape is not a character");
    utf8::append(value, code);
  }

  void lex_operator(std::size_t& depth) {
    static constexpr std::array<std::string_view, 6> kLong = {"**", "//", "==", "!=", ">=", "<="};
    static constexpr std::string_view kShort = "+-/*%~[](){}><=.:|,;";
    const std::string_view two = view().substr(position_, 2);
    const bool is_long = std::find(kLong.begin(), kLong.end(), two) != kLong.end();
    const std::string_view op = is_long ? two : two.substr(0, 1);
    if (!is_long && kShort.find(op) == std::string_view::npos) fail("unexpected character {}", op);
    if (op == "(" || op == "[" || op == "{") ++depth;
    if (op == ")" || op == "]" || op == "}") {
      if (depth == 0) fail("unexpected {}", op);
      --depth;
    }
    emit(Token::Type::op, std::string(op), position_);
    position_ += op.size();
  }

  // --- places ---------------------------------------------------------------------------------

  void emit(Token::Type type, std::string text, std::size_t at) {
    tokens_.push_back({type, std::move(text), location(at)});
  }

  /// Counts lines forward from the last place asked for.
  Location location(std::size_t at) {
    if (at < counted_) counted_ = line_start_ = 0, line_ = 1;
    for (; counted_ < at; ++counted_) {
      if (text_[counted_] == '\n') ++line_, line_start_ = counted_ + 1;
    }
    return {line_, utf8::count(view().substr(line_start_, at - line_start_)) + 1};
  }

  std::string text_;
  std::size_t position_ = 0;
  bool line_starting_ = true;  // nothing but stripped white space precedes on this line
  std::vector<Token> tokens_;
  std::size_t counted_ = 0, line_start_ = 0, line_ = 1;
};

}  // namespace

std::vector<Token> tokenize(std::string_view source) { return Lexer(source).run(); }

}  // namespace fulgur::text::jinja
