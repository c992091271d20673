// The tests of the language: `value is name(arguments)`.
#include "common/text/jinja/arguments.hpp"
#include "common/text/jinja/library.hpp"
#include "common/text/jinja/operations.hpp"
#include "common/text/jinja/text_operations.hpp"

namespace fulgur::text::jinja {
namespace {

using Test = bool (*)(const Value&, const Arguments&);

/// Wraps a plain predicate into the common signature.
template <Test test>
Value as_operation(Interpreter&, const Value& input, Arguments& arguments) {
  return Value::boolean(test(input, arguments));
}

template <CompareOp op>
bool compares(const Value& value, const Arguments& arguments) {
  return compare(op, value, required(arguments, 0, "other", "test"));
}

std::int64_t integer_input(const Value& value) {
  const auto* integer = value.get<std::int64_t>();
  if (integer == nullptr) fail("test needs an integer, not {}", type_name(value));
  return *integer;
}

bool is_divisible(const Value& value, const Arguments& arguments) {
  const std::int64_t by = integer_or(arguments, 0, "num", 0, "divisibleby");
  if (by == 0) fail("division by zero");
  return by == -1 || integer_input(value) % by == 0;
}

bool is_boolean(const Value& value, const Arguments&) { return value.get<bool>() != nullptr; }
bool is_true_constant(const Value& value, const Arguments&) {
  return value.get<bool>() && *value.get<bool>();
}
bool is_false_constant(const Value& value, const Arguments&) {
  return value.get<bool>() && !*value.get<bool>();
}
bool is_defined(const Value& value, const Arguments&) { return !value.is_undefined(); }
bool is_undefined(const Value& value, const Arguments&) { return value.is_undefined(); }
bool is_none(const Value& value, const Arguments&) { return value.is_none(); }
bool is_number(const Value& value, const Arguments&) { return value.is_number(); }
bool is_integer(const Value& value, const Arguments&) { return value.get<std::int64_t>(); }
bool is_float(const Value& value, const Arguments&) { return value.get<double>(); }
bool is_string(const Value& value, const Arguments&) { return value.as_string(); }
bool is_mapping(const Value& value, const Arguments&) {
  return value.as_dict() && !value.as_dict()->is_namespace;
}
bool is_sequence(const Value& value, const Arguments& arguments) {
  return value.as_string() || value.as_list() || is_mapping(value, arguments);
}
bool is_iterable(const Value& value, const Arguments& arguments) {
  return is_sequence(value, arguments) || value.is_undefined();
}
bool is_callable(const Value& value, const Arguments&) {
  return value.as_function() || value.as_loop();
}
bool is_even(const Value& value, const Arguments&) { return integer_input(value) % 2 == 0; }
bool is_odd(const Value& value, const Arguments&) { return integer_input(value) % 2 != 0; }
/// Python's islower: at least one cased letter, and all of them lower.
bool is_lower(const Value& value, const Arguments&) {
  const MarkedText text = to_text(value);
  return to_lower(text) == text && !(to_upper(text) == text);
}
bool is_upper(const Value& value, const Arguments&) {
  const MarkedText text = to_text(value);
  return to_upper(text) == text && !(to_lower(text) == text);
}
bool is_same(const Value& value, const Arguments& arguments) {
  const Value& other = required(arguments, 0, "other", "sameas");
  return value.storage().index() == other.storage().index() && equals(value, other);
}
bool is_filter(const Value& value, const Arguments&) {
  return value.as_string() && find_filter(value.as_string()->text()) != nullptr;
}
bool is_test(const Value& value, const Arguments&) {
  return value.as_string() && find_test(value.as_string()->text()) != nullptr;
}

constexpr std::pair<std::string_view, Operation> kTests[] = {
    {"!=", as_operation<compares<CompareOp::not_equal>>},
    {"<", as_operation<compares<CompareOp::less>>},
    {"<=", as_operation<compares<CompareOp::less_equal>>},
    {"==", as_operation<compares<CompareOp::equal>>},
    {">", as_operation<compares<CompareOp::greater>>},
    {">=", as_operation<compares<CompareOp::greater_equal>>},
    {"boolean", as_operation<is_boolean>},
    {"callable", as_operation<is_callable>},
    {"defined", as_operation<is_defined>},
    {"divisibleby", as_operation<is_divisible>},
    {"eq", as_operation<compares<CompareOp::equal>>},
    {"equalto", as_operation<compares<CompareOp::equal>>},
    {"even", as_operation<is_even>},
    {"false", as_operation<is_false_constant>},
    {"filter", as_operation<is_filter>},
    {"float", as_operation<is_float>},
    {"ge", as_operation<compares<CompareOp::greater_equal>>},
    {"greaterthan", as_operation<compares<CompareOp::greater>>},
    {"gt", as_operation<compares<CompareOp::greater>>},
    {"in", as_operation<compares<CompareOp::in>>},
    {"integer", as_operation<is_integer>},
    {"iterable", as_operation<is_iterable>},
    {"le", as_operation<compares<CompareOp::less_equal>>},
    {"lessthan", as_operation<compares<CompareOp::less>>},
    {"lower", as_operation<is_lower>},
    {"lt", as_operation<compares<CompareOp::less>>},
    {"mapping", as_operation<is_mapping>},
    {"ne", as_operation<compares<CompareOp::not_equal>>},
    {"none", as_operation<is_none>},
    {"number", as_operation<is_number>},
    {"odd", as_operation<is_odd>},
    {"sameas", as_operation<is_same>},
    {"sequence", as_operation<is_sequence>},
    {"string", as_operation<is_string>},
    {"test", as_operation<is_test>},
    {"true", as_operation<is_true_constant>},
    {"undefined", as_operation<is_undefined>},
    {"upper", as_operation<is_upper>},
};

}  // namespace

Operation find_test(std::string_view name) {
  for (const auto& [key, test] : kTests) {
    if (key == name) return test;
  }
  return nullptr;
}

}  // namespace fulgur::text::jinja
