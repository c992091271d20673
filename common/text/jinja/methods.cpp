// Python's methods of str, list and dict, and those of `loop`.
#include "common/text/jinja/arguments.hpp"
#include "common/text/jinja/filters.hpp"
#include "common/text/jinja/interpreter.hpp"
#include "common/text/jinja/library.hpp"
#include "common/text/jinja/operations.hpp"
#include "common/text/jinja/text_operations.hpp"
#include "common/text/utf8.hpp"

namespace fulgur::text::jinja {
namespace {

using StringMethod = Value (*)(Interpreter&, const MarkedText&, Arguments&);

template <Side side>
Value string_strip(Interpreter&, const MarkedText& self, Arguments& arguments) {
  const MarkedText* set = string_or_null(arguments, 0, "chars", "strip");
  return Value::string(
      strip(self, side, set ? std::optional<std::string_view>(set->text()) : std::nullopt));
}

Value to_list(std::vector<MarkedText> pieces) {
  List out;
  for (MarkedText& piece : pieces) out.push_back(Value::string(std::move(piece)));
  return Value::list(std::move(out));
}

template <bool from_right>
Value string_split(Interpreter&, const MarkedText& self, Arguments& arguments) {
  const MarkedText* separator = string_or_null(arguments, 0, "sep", "split");
  const std::int64_t limit = integer_or(arguments, 1, "maxsplit", -1, "split");
  if (separator != nullptr && separator->empty()) fail("split: the separator is empty");
  const auto at = separator ? std::optional<std::string_view>(separator->text()) : std::nullopt;
  // Each cut from the right copies what is left of it.
  if (from_right && limit > 1000) fail("rsplit: maxsplit is too large");
  return to_list(from_right ? split_right(self, at, limit) : split(self, at, limit));
}

Value string_splitlines(Interpreter&, const MarkedText& self, Arguments&) {
  return to_list(split_lines(self));
}

/// startswith and endswith take one string or a tuple of them.
template <bool at_end>
Value string_affix(Interpreter&, const MarkedText& self, Arguments& arguments) {
  const Value& affix = required(arguments, 0, "prefix", at_end ? "endswith" : "startswith");
  const auto fits = [&](const Value& value) {
    const std::string& text = string_of(value, "startswith").text();
    return at_end ? self.text().ends_with(text) : self.text().starts_with(text);
  };
  if (affix.as_list() == nullptr) return Value::boolean(fits(affix));
  for (const Value& value : *affix.as_list()) {
    if (fits(value)) return Value::boolean(true);
  }
  return Value::boolean(false);
}

template <bool at_end>
Value string_remove_affix(Interpreter&, const MarkedText& self, Arguments& arguments) {
  const std::string& affix = required_string(arguments, 0, "prefix", "removeprefix").text();
  if (at_end ? !self.text().ends_with(affix) : !self.text().starts_with(affix)) {
    return Value::string(self);
  }
  return Value::string(at_end ? self.slice(0, self.size() - affix.size())
                              : self.slice(affix.size(), self.size()));
}

Value string_replace(Interpreter& interpreter, const MarkedText& self, Arguments& arguments) {
  const MarkedText& from = required_string(arguments, 0, "old", "replace");
  const MarkedText& to = required_string(arguments, 1, "new", "replace");
  const std::int64_t limit = integer_or(arguments, 2, "count", -1, "replace");
  check_replacement(interpreter, self, from, to);
  return Value::string(replace(self, from.text(), to, limit));
}

template <MarkedText (*convert)(const MarkedText&)>
Value string_convert(Interpreter&, const MarkedText& self, Arguments&) {
  return Value::string(convert(self));
}

/// find and rfind count characters; -1 when absent.
template <bool from_right>
Value string_find(Interpreter&, const MarkedText& self, Arguments& arguments) {
  const std::string& what = required_string(arguments, 0, "sub", "find").text();
  const std::size_t at = from_right ? self.text().rfind(what) : self.text().find(what);
  if (at == std::string::npos) return Value::integer(-1);
  const std::string_view before = std::string_view(self.text()).substr(0, at);
  return Value::integer(static_cast<std::int64_t>(utf8::count(before)));
}

Value string_count(Interpreter&, const MarkedText& self, Arguments& arguments) {
  const std::string& what = required_string(arguments, 0, "sub", "count").text();
  if (what.empty()) return Value::integer(static_cast<std::int64_t>(utf8::count(self.text()) + 1));
  std::int64_t found = 0;
  for (std::size_t at = self.text().find(what); at != std::string::npos;
       at = self.text().find(what, at + what.size())) {
    ++found;
  }
  return Value::integer(found);
}

Value string_join(Interpreter& interpreter, const MarkedText& self, Arguments& arguments) {
  Arguments separator;
  separator.positional.push_back(Value::string(self));
  return find_filter("join")(interpreter, required(arguments, 0, "iterable", "join"), separator);
}

template <bool (*holds)(char32_t)>
Value string_all(Interpreter&, const MarkedText& self, Arguments&) {
  bool all = !self.empty();
  for (std::size_t i = 0; all && i < self.size(); i += utf8::character_length(self.text()[i])) {
    all = holds(utf8::code_point_at(self.text(), i));
  }
  return Value::boolean(all);
}

bool is_digit(char32_t c) { return c >= '0' && c <= '9'; }
bool is_alphanumeric(char32_t c) { return is_digit(c) || is_letter(c); }

template <bool upper>
Value string_is_case(Interpreter& interpreter, const MarkedText& self, Arguments& arguments) {
  return find_test(upper ? "upper" : "lower")(interpreter, Value::string(self), arguments);
}

constexpr std::pair<std::string_view, StringMethod> kStringMethods[] = {
    {"capitalize", string_convert<capitalize>},
    {"count", string_count},
    {"endswith", string_affix<true>},
    {"find", string_find<false>},
    {"isalnum", string_all<is_alphanumeric>},
    {"isalpha", string_all<is_letter>},
    {"isdigit", string_all<is_digit>},
    {"islower", string_is_case<false>},
    {"isspace", string_all<is_python_space>},
    {"isupper", string_is_case<true>},
    {"join", string_join},
    {"lower", string_convert<to_lower>},
    {"lstrip", string_strip<Side::left>},
    {"removeprefix", string_remove_affix<false>},
    {"removesuffix", string_remove_affix<true>},
    {"replace", string_replace},
    {"rfind", string_find<true>},
    {"rsplit", string_split<true>},
    {"rstrip", string_strip<Side::right>},
    {"split", string_split<false>},
    {"splitlines", string_splitlines},
    {"startswith", string_affix<false>},
    {"strip", string_strip<Side::both>},
    {"title", string_convert<to_title>},
    {"upper", string_convert<to_upper>},
};

bool call_dict_method(const Dict& dict, const std::string& name, Arguments& arguments,
                      Value& result) {
  List out;
  if (name == "get") {
    const Value* found = dict.find(to_text(required(arguments, 0, "key", "get")).text());
    const Value* fallback = arguments.find(1, "default");
    result = found ? *found : fallback ? *fallback : Value::none();
    return true;
  }
  if (name != "items" && name != "keys" && name != "values") return false;
  for (const auto& [key, value] : dict.entries) {
    if (name == "items") {
      out.push_back(Value::list({Value::string(key), value}, true));
    } else {
      out.push_back(name == "keys" ? Value::string(key) : value);
    }
  }
  result = Value::list(std::move(out));
  return true;
}

bool call_list_method(const List& list, const std::string& name, const Arguments& arguments,
                      Value& result) {
  if (name != "index" && name != "count") return false;
  const Value& wanted = required(arguments, 0, "value", name);
  std::int64_t found = 0;
  for (std::size_t i = 0; i < list.size(); ++i) {
    if (!equals(list[i], wanted)) continue;
    ++found;
    if (name == "index") {
      result = Value::integer(static_cast<std::int64_t>(i));
      return true;
    }
  }
  if (name == "index") fail("index: the value is not in the list");
  result = Value::integer(found);
  return true;
}

bool call_loop_method(const Loop& loop, const std::string& name, const Arguments& arguments,
                      Value& result) {
  if (name == "cycle") {
    if (arguments.positional.empty()) fail("loop.cycle needs values");
    result = arguments.positional[loop.index % arguments.positional.size()];
    return true;
  }
  if (name != "changed") return false;
  const Value before = Value::list(*loop.last_changed);
  const Value now = Value::list(arguments.positional);
  result = Value::boolean(loop.last_changed->empty() || !equals(before, now));
  *loop.last_changed = arguments.positional;
  return true;
}

}  // namespace

bool call_method(Interpreter& interpreter, const Value& object, const std::string& name,
                 Arguments& arguments, Value& result) {
  if (const MarkedText* text = object.as_string()) {
    for (const auto& [key, method] : kStringMethods) {
      if (key != name) continue;
      result = method(interpreter, *text, arguments);
      return true;
    }
    return false;
  }
  if (const List* list = object.as_list()) return call_list_method(*list, name, arguments, result);
  if (const Loop* loop = object.as_loop()) return call_loop_method(*loop, name, arguments, result);
  const Dict* dict = object.as_dict();
  if (dict == nullptr || dict->is_namespace) return false;
  return call_dict_method(*dict, name, arguments, result);
}

}  // namespace fulgur::text::jinja
