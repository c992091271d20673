// PCRE2 with UTF and UCP. Oniguruma's \s is Unicode's White_Space, PCRE2's adds U+180E, so \s is
// spelled out; Oniguruma's nested classes do not exist in PCRE2 and are refused.
#include "common/text/regex.hpp"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <array>
#include <string>

namespace fulgur::text {
namespace {

constexpr std::string_view kSpaceClass = "\\t-\\r\\x{85}\\p{Z}";
constexpr std::size_t kJitStackMin = 32 * 1024;
constexpr std::size_t kJitStackMax = 64 * 1024 * 1024;
constexpr std::uint32_t kMatchLimit = 200'000'000;

std::string error_text(int code) {
  std::array<unsigned char, 256> buffer{};
  pcre2_get_error_message(code, buffer.data(), buffer.size());
  return reinterpret_cast<const char*>(buffer.data());
}

/// Rewrites Oniguruma's dialect into PCRE2's.
Result<std::string> translate(std::string_view pattern) {
  std::string out;
  bool in_class = false;
  for (std::size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    if (c == '\\' && i + 1 < pattern.size()) {
      const char escaped = pattern[++i];
      if (escaped == 's' && in_class) {
        out += kSpaceClass;
      } else if ((escaped == 's' || escaped == 'S') && !in_class) {
        out += fmt::format("[{}{}]", escaped == 'S' ? "^" : "", kSpaceClass);
      } else {
        out += {c, escaped};
      }
      continue;
    }
    const bool nested =
        in_class && ((c == '[' && pattern.substr(i, 2) != "[:") || pattern.substr(i, 2) == "&&");
    if (nested) {
      return error(Code::invalid_argument, "nested character class at offset {} of pattern {}", i,
                   pattern);
    }
    if (c == '[' && !in_class) {
      in_class = true;
      out += c;
      // A bracket right after the opening one is a member, not the end.
      if (i + 1 < pattern.size() && pattern[i + 1] == '^') out += pattern[++i];
      if (i + 1 < pattern.size() && pattern[i + 1] == ']') {
        out += "\\]";
        ++i;
      }
      continue;
    }
    if (c == ']') in_class = false;
    out += c;
  }
  return out;
}

}  // namespace

struct Regex::Program {
  pcre2_code* code = nullptr;
  bool jit = false;
  ~Program() { pcre2_code_free(code); }
};

struct Regex::Scratch::State {
  pcre2_match_data* data = pcre2_match_data_create(1, nullptr);
  pcre2_match_context* context = pcre2_match_context_create(nullptr);
  pcre2_jit_stack* stack = nullptr;
  ~State() {
    pcre2_match_data_free(data);
    pcre2_match_context_free(context);
    pcre2_jit_stack_free(stack);
  }
};

Regex::Scratch::Scratch() : state_(std::make_unique<State>()) {
  pcre2_set_match_limit(state_->context, kMatchLimit);
}
Regex::Scratch::~Scratch() = default;

Result<Regex> Regex::compile(std::string_view pattern) {
  FULGUR_ASSIGN_OR_RETURN(const std::string translated, translate(pattern));
  return build(translated, PCRE2_UTF | PCRE2_UCP);
}

Result<Regex> Regex::literal(std::string_view text) {
  return build(text, PCRE2_UTF | PCRE2_LITERAL);
}

Result<Regex> Regex::build(std::string_view pattern, std::uint32_t options) {
  int code_error = 0;
  PCRE2_SIZE offset = 0;
  auto program = std::make_shared<Program>();
  program->code = pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                                options, &code_error, &offset, nullptr);
  if (program->code == nullptr) {
    return error(Code::invalid_argument, "pattern {}: {} at offset {}", pattern,
                 error_text(code_error), offset);
  }
  program->jit = pcre2_jit_compile(program->code, PCRE2_JIT_COMPLETE) == 0;
  Regex regex;
  regex.program_ = std::move(program);
  return regex;
}

Result<std::optional<Regex::Match>> Regex::find(std::string_view subject, std::size_t start,
                                                Scratch& scratch) const {
  Scratch::State& state = *scratch.state_;
  const auto* bytes = reinterpret_cast<PCRE2_SPTR>(subject.data());
  const auto match = program_->jit ? pcre2_jit_match : pcre2_match;
  const auto run = [&] {
    return match(program_->code, bytes, subject.size(), start, PCRE2_NO_UTF_CHECK, state.data,
                 state.context);
  };
  int found = run();
  if (found == PCRE2_ERROR_JIT_STACKLIMIT && state.stack == nullptr) {
    state.stack = pcre2_jit_stack_create(kJitStackMin, kJitStackMax, nullptr);
    pcre2_jit_stack_assign(state.context, nullptr, state.stack);
    found = run();
  }
  if (found == PCRE2_ERROR_NOMATCH) return std::optional<Match>();
  if (found < 0) {
    return error(Code::resource_exhausted, "pretokenizer pattern gave up at byte {}: {}", start,
                 error_text(found));
  }
  const PCRE2_SIZE* offsets = pcre2_get_ovector_pointer(state.data);
  // \K inside a lookahead can report an end before the begin; no known tokenizer uses it.
  if (offsets[1] < offsets[0]) return std::optional<Match>();
  return std::optional<Match>(Match{offsets[0], offsets[1]});
}

}  // namespace fulgur::text
