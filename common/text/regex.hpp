// A compiled Unicode regular expression (PCRE2, JIT) with the dialect of tokenizer.json files,
// which is Oniguruma's. Const use is safe from several threads; each brings its own Scratch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string_view>

#include "common/base/status.hpp"

namespace fulgur::text {

class Regex {
 public:
  struct Match {
    std::size_t begin, end;
  };
  /// Memory that matching needs; one for each thread at a time.
  class Scratch {
   public:
    Scratch();
    ~Scratch();
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;

   private:
    friend class Regex;
    struct State;
    std::unique_ptr<State> state_;
  };

  /// Fails with invalid_argument and the position of the fault.
  static Result<Regex> compile(std::string_view pattern);
  /// Matches exactly `text`.
  static Result<Regex> literal(std::string_view text);

  /// The first match in valid UTF-8 `subject` at or after byte `start`. Fails with
  /// resource_exhausted when the pattern backtracks beyond its limits.
  Result<std::optional<Match>> find(std::string_view subject, std::size_t start,
                                    Scratch& scratch) const;

 private:
  struct Program;
  static Result<Regex> build(std::string_view pattern, std::uint32_t options);
  std::shared_ptr<const Program> program_;
};

}  // namespace fulgur::text
