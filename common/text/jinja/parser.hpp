// Template source to syntax tree, by recursive descent with Jinja2's precedences.
#pragma once

#include <string_view>

#include "common/text/jinja/ast.hpp"

namespace fulgur::text::jinja {

/// Throws TemplateError with the place of the fault; nesting is bounded.
Block parse_template(std::string_view source);

}  // namespace fulgur::text::jinja
