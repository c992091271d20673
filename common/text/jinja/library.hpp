// What templates can call by name: filters, tests, global functions and the methods of strings,
// lists and dicts. All of them throw TemplateError on wrong arguments.
#pragma once

#include <string_view>

#include "common/text/jinja/ast.hpp"

namespace fulgur::text::jinja {

/// The filter or test of that name; null when there is none.
Operation find_filter(std::string_view name);
Operation find_test(std::string_view name);

/// A global function such as range or raise_exception; undefined when there is none.
Value find_global(const std::string& name);

/// Calls object.name(arguments) for Python's methods of str, list and dict and for namespaces and
/// loops. Returns false when the type has no such method.
bool call_method(Interpreter& interpreter, const Value& object, const std::string& name,
                 Arguments& arguments, Value& result);

}  // namespace fulgur::text::jinja
