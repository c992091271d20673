// See the header; nothing here knows who is called.
#include "common/text/jinja/arguments.hpp"

#include <charconv>

#include "common/text/jinja/operations.hpp"

namespace fulgur::text::jinja {

const Value& required(const Arguments& arguments, std::size_t index, std::string_view name,
                      std::string_view what) {
  const Value* found = arguments.find(index, name);
  if (found == nullptr) fail("{} needs the argument {}", what, name);
  return *found;
}

bool bool_or(const Arguments& arguments, std::size_t index, std::string_view name, bool fallback) {
  const Value* found = arguments.find(index, name);
  return found ? is_true(*found) : fallback;
}

std::int64_t integer_or(const Arguments& arguments, std::size_t index, std::string_view name,
                        std::int64_t fallback, std::string_view what) {
  const Value* found = arguments.find(index, name);
  if (found == nullptr || found->is_none()) return fallback;
  if (const auto* integer = found->get<std::int64_t>()) return *integer;
  if (const auto* boolean = found->get<bool>()) return *boolean ? 1 : 0;
  fail("{}: {} must be an integer, not {}", what, name, type_name(*found));
}

const MarkedText* string_or_null(const Arguments& arguments, std::size_t index,
                                 std::string_view name, std::string_view what) {
  const Value* found = arguments.find(index, name);
  if (found == nullptr || found->is_none()) return nullptr;
  if (found->as_string() == nullptr) {
    fail("{}: {} must be a string, not {}", what, name, type_name(*found));
  }
  return found->as_string();
}

const MarkedText& required_string(const Arguments& arguments, std::size_t index,
                                  std::string_view name, std::string_view what) {
  const MarkedText* found = string_or_null(arguments, index, name, what);
  if (found == nullptr) fail("{} needs the argument {}", what, name);
  return *found;
}

const MarkedText& string_of(const Value& value, std::string_view what) {
  if (value.as_string() == nullptr) fail("{} needs a string, not {}", what, type_name(value));
  return *value.as_string();
}

Value attribute_of(const Value& value, const Value& path, const Value* fallback) {
  const auto get = [&](const Value& object, const Value& index) {
    Value found = subscript(object, index);
    return found.is_undefined() && fallback != nullptr ? *fallback : found;
  };
  if (path.as_string() == nullptr) return get(value, path);
  Value current = value;
  std::string_view rest = path.as_string()->text();
  while (true) {
    const std::size_t dot = rest.find('.');
    const std::string_view part = rest.substr(0, dot);
    std::int64_t index = 0;
    const auto parsed = std::from_chars(part.data(), part.data() + part.size(), index);
    const bool is_index = parsed.ec == std::errc() && parsed.ptr == part.data() + part.size();
    const bool use_index = is_index && current.as_list() != nullptr;
    current = get(current, use_index ? Value::integer(index) : Value::trusted(part));
    if (dot == std::string_view::npos) return current;
    rest.remove_prefix(dot + 1);
  }
}

}  // namespace fulgur::text::jinja
