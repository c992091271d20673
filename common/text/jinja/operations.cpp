// Python's rules, with errors in place of overflow.
#include "common/text/jinja/operations.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <optional>

#include "common/text/jinja/text_operations.hpp"
#include "common/text/utf8.hpp"

namespace fulgur::text::jinja {
namespace {

constexpr std::size_t kMaxTextBytes = 32U << 20U;
constexpr std::size_t kMaxItems = 200'000;

/// Integers and booleans as an integer.
std::optional<std::int64_t> integral(const Value& value) {
  if (const auto* integer = value.get<std::int64_t>()) return *integer;
  if (const auto* boolean = value.get<bool>()) return *boolean ? 1 : 0;
  return std::nullopt;
}

double real(const Value& value) {
  if (const auto* number = value.get<double>()) return *number;
  return static_cast<double>(*integral(value));
}

[[noreturn]] void unsupported(std::string_view op, const Value& left, const Value& right) {
  for (const Value* side : {&left, &right}) {
    if (const auto* missing = side->get<Undefined>()) fail("{} is undefined", missing->name);
  }
  fail("cannot use {} on {} and {}", op, type_name(left), type_name(right));
}

std::int64_t checked_power(std::int64_t base, std::int64_t exponent) {
  std::int64_t result = 1;
  while (exponent > 0) {
    const bool overflow = ((exponent & 1) != 0 && __builtin_mul_overflow(result, base, &result)) ||
                          (exponent > 1 && __builtin_mul_overflow(base, base, &base));
    if (overflow) fail("integer overflow");
    exponent >>= 1;
  }
  return result;
}

Value integer_arithmetic(BinaryOp op, std::int64_t left, std::int64_t right) {
  std::int64_t result = 0;
  bool overflow = false;
  const bool divides =
      op == BinaryOp::divide || op == BinaryOp::floor_divide || op == BinaryOp::modulo;
  if (divides && right == 0) fail("division by zero");
  if (divides && right == -1 && left == std::numeric_limits<std::int64_t>::min()) {
    fail("integer overflow");
  }
  switch (op) {
    case BinaryOp::add:
      overflow = __builtin_add_overflow(left, right, &result);
      break;
    case BinaryOp::subtract:
      overflow = __builtin_sub_overflow(left, right, &result);
      break;
    case BinaryOp::multiply:
      overflow = __builtin_mul_overflow(left, right, &result);
      break;
    case BinaryOp::divide:
      return Value::real(static_cast<double>(left) / static_cast<double>(right));
    case BinaryOp::floor_divide:
      result = left / right - ((left % right != 0 && (left < 0) != (right < 0)) ? 1 : 0);
      break;
    case BinaryOp::modulo:
      result = left % right;
      if (result != 0 && (result < 0) != (right < 0)) result += right;
      break;
    default:
      if (right < 0) {
        return Value::real(std::pow(static_cast<double>(left), static_cast<double>(right)));
      }
      result = checked_power(left, right);
  }
  if (overflow) fail("integer overflow");
  return Value::integer(result);
}

Value real_arithmetic(BinaryOp op, double left, double right) {
  const bool divides =
      op == BinaryOp::divide || op == BinaryOp::floor_divide || op == BinaryOp::modulo;
  if (divides && right == 0) fail("division by zero");
  switch (op) {
    case BinaryOp::add:
      return Value::real(left + right);
    case BinaryOp::subtract:
      return Value::real(left - right);
    case BinaryOp::multiply:
      return Value::real(left * right);
    case BinaryOp::divide:
      return Value::real(left / right);
    case BinaryOp::floor_divide:
      return Value::real(std::floor(left / right));
    case BinaryOp::modulo:
      return Value::real(left - right * std::floor(left / right));
    default:
      return Value::real(std::pow(left, right));
  }
}

Value repeat(const Value& sequence, std::int64_t times) {
  const std::size_t count = times > 0 ? static_cast<std::size_t>(times) : 0;
  if (const MarkedText* text = sequence.as_string()) {
    if (count != 0 && text->size() > kMaxTextBytes / count) fail("text is too long");
    MarkedText out;
    for (std::size_t i = 0; i < count && !text->empty(); ++i) out.append(*text);
    return Value::string(std::move(out));
  }
  const List& items = *sequence.as_list();
  if (count != 0 && items.size() > kMaxItems / count) fail("list is too long");
  List out;
  for (std::size_t i = 0; i < count && !items.empty(); ++i) {
    out.insert(out.end(), items.begin(), items.end());
  }
  return Value::list(std::move(out));
}

Value concatenate(const Value& left, const Value& right) {
  MarkedText out = to_text(left);
  out.append(to_text(right));
  return Value::string(std::move(out));
}

Value add(const Value& left, const Value& right) {
  if (left.as_string() && right.as_string()) return concatenate(left, right);
  if (!left.as_list() || !right.as_list()) unsupported("+", left, right);
  List out = *left.as_list();
  if (out.size() + right.as_list()->size() > kMaxItems) fail("list is too long");
  out.insert(out.end(), right.as_list()->begin(), right.as_list()->end());
  return Value::list(std::move(out));
}

std::string_view name_of(BinaryOp op) {
  static constexpr std::array<std::string_view, 10> kNames = {"+", "-",  "*", "/",   "//",
                                                              "%", "**", "~", "and", "or"};
  return kNames[static_cast<std::size_t>(op)];
}

/// Bound of a slice, clamped as Python does for a positive or negative step.
std::int64_t bound(const Value& value, std::int64_t size, bool forward, bool is_stop) {
  if (value.is_undefined() || value.is_none()) {
    if (forward) return is_stop ? size : 0;
    return is_stop ? -1 : size - 1;
  }
  const auto given = integral(value);
  if (!given) fail("slice bounds must be integers, not {}", type_name(value));
  const std::int64_t at = *given < 0 ? *given + size : *given;
  return std::clamp<std::int64_t>(at, forward ? 0 : -1, forward ? size : size - 1);
}

/// Lists may share their parts, so a comparison can cost far more than the values take up.
bool equal_within(const Value& left, const Value& right, std::size_t& budget) {
  if (budget-- == 0) fail("comparison takes too long");
  if (left.is_number() && right.is_number()) {
    const auto a = integral(left), b = integral(right);
    return a && b ? *a == *b : real(left) == real(right);
  }
  if (left.storage().index() != right.storage().index()) return false;
  if (left.is_undefined() || left.is_none()) return true;
  if (const MarkedText* text = left.as_string()) return text->text() == right.as_string()->text();
  if (const List* list = left.as_list()) {
    const List& other = *right.as_list();
    return std::equal(list->begin(), list->end(), other.begin(), other.end(),
                      [&](const Value& a, const Value& b) { return equal_within(a, b, budget); });
  }
  const Dict* dict = left.as_dict();
  if (dict == nullptr) {
    return left.as_loop() == right.as_loop() && left.as_function() == right.as_function();
  }
  const Dict* other = right.as_dict();
  if (dict == other) return true;
  if (dict->is_namespace || dict->entries.size() != other->entries.size()) return false;
  return std::all_of(dict->entries.begin(), dict->entries.end(), [&](const auto& entry) {
    const Value* found = other->find(entry.first.text());
    return found != nullptr && equal_within(entry.second, *found, budget);
  });
}

}  // namespace

bool is_true(const Value& value) {
  if (const auto* boolean = value.get<bool>()) return *boolean;
  if (const auto* integer = value.get<std::int64_t>()) return *integer != 0;
  if (const auto* number = value.get<double>()) return *number != 0;
  if (const MarkedText* text = value.as_string()) return !text->empty();
  if (const List* list = value.as_list()) return !list->empty();
  if (const Dict* dict = value.as_dict()) return dict->is_namespace || !dict->entries.empty();
  return !value.is_undefined() && !value.is_none();
}

std::string_view type_name(const Value& value) {
  static constexpr std::array<std::string_view, 10> kNames = {
      "undefined", "None", "bool", "int", "float", "str", "list", "dict", "loop", "function"};
  return kNames[value.storage().index()];
}

bool equals(const Value& left, const Value& right) {
  std::size_t budget = kMaxItems;
  return equal_within(left, right, budget);
}

bool is_less(const Value& left, const Value& right) {
  if (left.is_number() && right.is_number()) {
    const auto a = integral(left), b = integral(right);
    return a && b ? *a < *b : real(left) < real(right);
  }
  // UTF-8 sorts as its code points do.
  if (left.as_string() && right.as_string()) {
    return left.as_string()->text() < right.as_string()->text();
  }
  if (left.as_list() && right.as_list()) {
    if (left.depth() > 2 || right.depth() > 2) fail("nested lists have no order");
    return std::lexicographical_compare(left.as_list()->begin(), left.as_list()->end(),
                                        right.as_list()->begin(), right.as_list()->end(), is_less);
  }
  unsupported("<", left, right);
}

bool contains(const Value& container, const Value& item) {
  if (const MarkedText* text = container.as_string()) {
    if (!item.as_string()) unsupported("in", item, container);
    return text->text().find(item.as_string()->text()) != std::string::npos;
  }
  if (const Dict* dict = container.as_dict()) {
    return item.as_string() && dict->find(item.as_string()->text()) != nullptr;
  }
  if (container.is_undefined()) return false;
  const List* list = container.as_list();
  if (list == nullptr) unsupported("in", item, container);
  return std::any_of(list->begin(), list->end(),
                     [&](const Value& held) { return equals(held, item); });
}

bool compare(CompareOp op, const Value& left, const Value& right) {
  switch (op) {
    case CompareOp::equal:
      return equals(left, right);
    case CompareOp::not_equal:
      return !equals(left, right);
    case CompareOp::less:
      return is_less(left, right);
    case CompareOp::less_equal:
      return is_less(left, right) || equals(left, right);
    case CompareOp::greater:
      return is_less(right, left);
    case CompareOp::greater_equal:
      return is_less(right, left) || equals(left, right);
    case CompareOp::in:
      return contains(right, left);
    case CompareOp::not_in:
      return !contains(right, left);
  }
  return false;
}

Value arithmetic(BinaryOp op, const Value& left, const Value& right) {
  if (op == BinaryOp::concatenate) return concatenate(left, right);
  if (left.is_number() && right.is_number()) {
    const auto a = integral(left), b = integral(right);
    return a && b ? integer_arithmetic(op, *a, *b) : real_arithmetic(op, real(left), real(right));
  }
  if (op == BinaryOp::add) return add(left, right);
  const bool left_repeats = (left.as_string() || left.as_list()) && integral(right);
  const bool right_repeats = (right.as_string() || right.as_list()) && integral(left);
  if (op == BinaryOp::multiply && left_repeats) return repeat(left, *integral(right));
  if (op == BinaryOp::multiply && right_repeats) return repeat(right, *integral(left));
  unsupported(name_of(op), left, right);
}

Value negate(const Value& value) {
  if (!value.is_number()) fail("cannot negate {}", type_name(value));
  if (const auto* number = value.get<double>()) return Value::real(-*number);
  return arithmetic(BinaryOp::subtract, Value::integer(0), value);
}

List items_of(const Value& value) {
  if (const List* list = value.as_list()) return *list;
  List out;
  if (const MarkedText* text = value.as_string()) {
    for (MarkedText& c : characters(*text)) out.push_back(Value::string(std::move(c)));
  } else if (const Dict* dict = value.as_dict(); dict != nullptr && !dict->is_namespace) {
    for (const auto& [key, item] : dict->entries) out.push_back(Value::string(key));
  } else if (!value.is_undefined()) {
    fail("{} is not iterable", type_name(value));
  }
  return out;
}

std::size_t length_of(const Value& value) {
  if (const MarkedText* text = value.as_string()) return utf8::count(text->text());
  if (const List* list = value.as_list()) return list->size();
  if (const Dict* dict = value.as_dict()) return dict->entries.size();
  if (value.is_undefined()) return 0;
  fail("{} has no length", type_name(value));
}

Value subscript(const Value& object, const Value& index) {
  if (const auto* missing = object.get<Undefined>()) fail("{} is undefined", missing->name);
  if (const Dict* dict = object.as_dict()) {
    const MarkedText key = to_text(index);
    const Value* found = dict->find(key.text());
    return found ? *found : Value::undefined(key.text());
  }
  const auto position = integral(index);
  if (!position || (!object.as_list() && !object.as_string())) {
    return Value::undefined(to_text(index).text());
  }
  const auto size = static_cast<std::int64_t>(length_of(object));
  const std::int64_t at = *position < 0 ? *position + size : *position;
  if (at < 0 || at >= size) return Value::undefined(fmt::format("item {}", *position));
  if (const List* list = object.as_list()) return (*list)[static_cast<std::size_t>(at)];
  return slice(object, Value::integer(at), Value::integer(at + 1), Value());
}

Value slice(const Value& object, const Value& start, const Value& stop, const Value& step) {
  if (const auto* missing = object.get<Undefined>()) fail("{} is undefined", missing->name);
  const MarkedText* text = object.as_string();
  if (text == nullptr && object.as_list() == nullptr) fail("cannot slice {}", type_name(object));
  const bool has_step = !step.is_undefined() && !step.is_none();
  if (has_step && !integral(step)) fail("slice step must be an integer");
  const std::int64_t by = has_step ? *integral(step) : 1;
  if (by == 0) fail("slice step cannot be zero");
  const auto size = static_cast<std::int64_t>(length_of(object));
  const std::int64_t from = bound(start, size, by > 0, false);
  const std::int64_t to = bound(stop, size, by > 0, true);
  if (text != nullptr && by == 1) {
    std::size_t begin = 0, end = 0;
    const std::string& bytes = text->text();
    std::int64_t character = 0;
    for (; character < from; ++character) begin += utf8::character_length(bytes[begin]);
    for (end = begin; character < to; ++character) end += utf8::character_length(bytes[end]);
    return Value::string(text->slice(begin, end));
  }
  const List items = items_of(object);
  List out;
  // Stepping by the distance left instead of adding keeps huge steps from overflowing.
  for (std::int64_t i = from; by > 0 ? i < to : i > to;) {
    out.push_back(items[static_cast<std::size_t>(i)]);
    if (by > 0 ? by >= to - i : by <= to - i) break;
    i += by;
  }
  if (text == nullptr) return Value::list(std::move(out));
  MarkedText joined;
  for (const Value& c : out) joined.append(*c.as_string());
  return Value::string(std::move(joined));
}

}  // namespace fulgur::text::jinja
