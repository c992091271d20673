// What the filter sources share.
#pragma once

#include <string_view>

#include "common/text/jinja/ast.hpp"

namespace fulgur::text::jinja {

/// Filters that take or make lists; null when there is none of that name.
Operation find_list_filter(std::string_view name);

/// Charges for replacing `from` by `to` in `text` before the result is made.
void check_replacement(Interpreter& interpreter, const MarkedText& text, const MarkedText& from,
                       const MarkedText& to);

}  // namespace fulgur::text::jinja
