// The operators of the language on values: truth, text, comparison, arithmetic, iteration. Text
// results keep the marks of the text they were made from.
#pragma once

#include <string>
#include <string_view>

#include "common/text/jinja/ast.hpp"

namespace fulgur::text::jinja {

bool is_true(const Value& value);
/// Python's name of the type, for messages.
std::string_view type_name(const Value& value);
/// Python's str() and repr().
MarkedText to_text(const Value& value);
MarkedText to_repr(const Value& value);
/// Python's repr of a float, e.g. 1.0, 1e-07.
std::string real_text(double value);

bool equals(const Value& left, const Value& right);
/// left < right; fails for types without an order.
bool is_less(const Value& left, const Value& right);
bool contains(const Value& container, const Value& item);
bool compare(CompareOp op, const Value& left, const Value& right);

/// Every operator but `and` and `or`, which need not evaluate both sides.
Value arithmetic(BinaryOp op, const Value& left, const Value& right);
Value negate(const Value& value);

/// The items a `for` visits: of a list, the characters of a string, the keys of a dict.
List items_of(const Value& value);
std::size_t length_of(const Value& value);
/// object[index]; undefined when there is no such item.
Value subscript(const Value& object, const Value& index);
/// Undefined bounds are the ends.
Value slice(const Value& object, const Value& start, const Value& stop, const Value& step);

/// Python's json.dumps(value, ensure_ascii=False): `indent` < 0 is one line.
MarkedText to_json(const Value& value, int indent, bool sort_keys = false,
                   std::string_view item_separator = {}, std::string_view key_separator = {});

}  // namespace fulgur::text::jinja
