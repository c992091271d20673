// Reading the arguments of filters, tests, methods and functions. `what` names the callee in
// messages. All throw TemplateError when an argument is missing or of the wrong type.
#pragma once

#include <optional>
#include <string_view>

#include "common/text/jinja/value.hpp"

namespace fulgur::text::jinja {

const Value& required(const Arguments& arguments, std::size_t index, std::string_view name,
                      std::string_view what);
bool bool_or(const Arguments& arguments, std::size_t index, std::string_view name, bool fallback);
std::int64_t integer_or(const Arguments& arguments, std::size_t index, std::string_view name,
                        std::int64_t fallback, std::string_view what);
/// The argument as a string; null when absent or None.
const MarkedText* string_or_null(const Arguments& arguments, std::size_t index,
                                 std::string_view name, std::string_view what);
const MarkedText& required_string(const Arguments& arguments, std::size_t index,
                                  std::string_view name, std::string_view what);
/// The value as a string, e.g. the input of a method-like filter.
const MarkedText& string_of(const Value& value, std::string_view what);

/// value.a.b.0: a dotted path as the `attribute` of map, selectattr and others. What is missing on
/// the way becomes `fallback` unless that is null.
Value attribute_of(const Value& value, const Value& path, const Value* fallback = nullptr);

}  // namespace fulgur::text::jinja
