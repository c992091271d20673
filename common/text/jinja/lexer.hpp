// Cuts template source into tokens. White space is treated as Hugging Face sets Jinja2 up:
// trim_blocks, lstrip_blocks, no trailing newline.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "common/text/jinja/value.hpp"

namespace fulgur::text::jinja {

struct Token {
  enum class Type {
    data,
    block_begin,
    block_end,
    print_begin,
    print_end,
    name,
    string,
    integer,
    real,
    op,
    end
  };
  Type type = Type::end;
  std::string text;  ///< data: literal text; string: unescaped; op: its characters
  Location at;
};

/// Throws TemplateError at the first character that cannot be a token.
std::vector<Token> tokenize(std::string_view source);

}  // namespace fulgur::text::jinja
