// Filters that go through lists. An iterator in Python is a list here: templates cannot tell.
#include <algorithm>

#include "common/text/jinja/arguments.hpp"
#include "common/text/jinja/filters.hpp"
#include "common/text/jinja/interpreter.hpp"
#include "common/text/jinja/library.hpp"
#include "common/text/jinja/operations.hpp"
#include "common/text/jinja/text_operations.hpp"
#include "common/text/utf8.hpp"

namespace fulgur::text::jinja {
namespace {

Value filter_first(Interpreter&, const Value& input, Arguments&) {
  const List items = items_of(input);
  return items.empty() ? Value::undefined("first item of an empty list") : items.front();
}

Value filter_last(Interpreter&, const Value& input, Arguments&) {
  const List items = items_of(input);
  return items.empty() ? Value::undefined("last item of an empty list") : items.back();
}

Value filter_list(Interpreter&, const Value& input, Arguments&) {
  return Value::list(items_of(input));
}

Value filter_join(Interpreter& interpreter, const Value& input, Arguments& arguments) {
  const Value* separator = arguments.find(0, "d");
  const MarkedText between = separator ? to_text(*separator) : MarkedText();
  const Value* attribute = arguments.find(1, "attribute");
  MarkedText out;
  bool first = true;
  for (const Value& item : items_of(input)) {
    if (!first) out.append(between);
    first = false;
    out.append(to_text(attribute ? attribute_of(item, *attribute) : item));
    interpreter.charge_text(between.size());
    if (out.size() > (32U << 20U)) fail("text is too long");
  }
  return Value::string(std::move(out));
}

Value filter_reverse(Interpreter&, const Value& input, Arguments&) {
  if (input.as_string()) return Value::string(reversed(*input.as_string()));
  List items = items_of(input);
  std::reverse(items.begin(), items.end());
  return Value::list(std::move(items));
}

Value filter_items(Interpreter&, const Value& input, Arguments&) {
  if (input.is_undefined()) return Value::list({});
  const Dict* dict = input.as_dict();
  if (dict == nullptr) fail("items needs a dict, not {}", type_name(input));
  List out;
  for (const auto& [key, value] : dict->entries) {
    out.push_back(Value::list({Value::string(key), value}, true));
  }
  return Value::list(std::move(out));
}

/// What an item is ordered or told apart by.
struct KeyOf {
  const Value* attribute;
  bool case_sensitive;

  KeyOf(const Arguments& arguments, std::size_t case_index, std::size_t attribute_index)
      : attribute(arguments.find(attribute_index, "attribute")),
        case_sensitive(bool_or(arguments, case_index, "case_sensitive", false)) {}

  Value operator()(const Value& item) const {
    if (attribute == nullptr || attribute->is_none()) return folded(item);
    const MarkedText* names = attribute->as_string();
    if (names == nullptr || names->text().find(',') == std::string::npos) {
      return folded(attribute_of(item, *attribute));
    }
    List keys;  // "age,name": by the first, then by the second
    for (MarkedText& name : split(*names, ",", -1)) {
      keys.push_back(folded(attribute_of(item, Value::string(std::move(name)))));
    }
    return Value::list(std::move(keys));
  }

 private:
  Value folded(Value key) const {
    if (case_sensitive || !key.as_string()) return key;
    return Value::string(to_lower(*key.as_string()));
  }
};

/// Sorts items by their keys; both are given and returned in step.
List sort_by_key(std::vector<std::pair<Value, Value>> keyed, bool reverse) {
  // Equal items keep their order in both directions, as in Python.
  std::stable_sort(keyed.begin(), keyed.end(), [&](const auto& a, const auto& b) {
    return reverse ? is_less(b.first, a.first) : is_less(a.first, b.first);
  });
  List out;
  for (auto& [key, item] : keyed) out.push_back(std::move(item));
  return out;
}

std::vector<std::pair<Value, Value>> with_keys(const List& items, const KeyOf& key_of) {
  std::vector<std::pair<Value, Value>> keyed;
  for (const Value& item : items) keyed.emplace_back(key_of(item), item);
  return keyed;
}

Value filter_sort(Interpreter&, const Value& input, Arguments& arguments) {
  const bool reverse = bool_or(arguments, 0, "reverse", false);
  return Value::list(sort_by_key(with_keys(items_of(input), KeyOf(arguments, 1, 2)), reverse));
}

Value filter_dictsort(Interpreter& interpreter, const Value& input, Arguments& arguments) {
  Arguments none;
  const Value pairs = filter_items(interpreter, input, none);
  const MarkedText* by = string_or_null(arguments, 1, "by", "dictsort");
  Arguments key_arguments;
  key_arguments.named.emplace_back("attribute",
                                   Value::integer(by != nullptr && by->text() == "value" ? 1 : 0));
  key_arguments.named.emplace_back("case_sensitive",
                                   Value::boolean(bool_or(arguments, 0, "case_sensitive", false)));
  const bool reverse = bool_or(arguments, 2, "reverse", false);
  return Value::list(sort_by_key(with_keys(*pairs.as_list(), KeyOf(key_arguments, 9, 9)), reverse));
}

Value filter_unique(Interpreter& interpreter, const Value& input, Arguments& arguments) {
  const KeyOf key_of(arguments, 0, 1);
  List keys, out;
  for (const Value& item : items_of(input)) {
    Value key = key_of(item);
    interpreter.charge(keys.size());
    const bool seen =
        std::any_of(keys.begin(), keys.end(), [&](const Value& held) { return equals(held, key); });
    if (seen) continue;
    keys.push_back(std::move(key));
    out.push_back(item);
  }
  return Value::list(std::move(out));
}

Value extreme(const Value& input, Arguments& arguments, bool largest) {
  const KeyOf key_of(arguments, 0, 1);
  const List items = items_of(input);
  if (items.empty()) return Value::undefined("extreme of an empty list");
  Value best = items[0];
  for (const Value& item : items) {
    const bool better =
        largest ? is_less(key_of(best), key_of(item)) : is_less(key_of(item), key_of(best));
    if (better) best = item;
  }
  return best;
}

Value filter_min(Interpreter&, const Value& input, Arguments& arguments) {
  return extreme(input, arguments, false);
}

Value filter_max(Interpreter&, const Value& input, Arguments& arguments) {
  return extreme(input, arguments, true);
}

Value filter_sum(Interpreter&, const Value& input, Arguments& arguments) {
  const Value* attribute = arguments.find(0, "attribute");
  const Value* start = arguments.find(1, "start");
  Value total = start ? *start : Value::integer(0);
  for (const Value& item : items_of(input)) {
    const bool whole = attribute == nullptr || attribute->is_none();
    const Value term = whole ? item : attribute_of(item, *attribute);
    if (!term.is_number() || !total.is_number()) fail("sum needs numbers");
    total = arithmetic(BinaryOp::add, total, term);
  }
  return total;
}

/// The arguments from `first` on, for the filter or test that another filter calls.
Arguments tail(const Arguments& arguments, std::size_t first) {
  Arguments out;
  for (std::size_t i = first; i < arguments.positional.size(); ++i) {
    out.positional.push_back(arguments.positional[i]);
  }
  out.named = arguments.named;
  return out;
}

Value filter_map(Interpreter& interpreter, const Value& input, Arguments& arguments) {
  List out;
  if (arguments.positional.empty()) {
    const Value& attribute = required(arguments, 0, "attribute", "map");
    const Value* fallback = arguments.find(99, "default");
    for (const Value& item : items_of(input)) {
      out.push_back(attribute_of(item, attribute, fallback));
    }
    return Value::list(std::move(out));
  }
  const MarkedText& name = required_string(arguments, 0, "filter", "map");
  const Operation filter = find_filter(name.text());
  if (filter == nullptr) fail("map: no filter named {}", name.text());
  for (const Value& item : items_of(input)) {
    Arguments rest = tail(arguments, 1);
    interpreter.charge_value(item);
    out.push_back(filter(interpreter, item, rest));
    interpreter.charge_value(out.back());
  }
  return Value::list(std::move(out));
}

/// select, reject, selectattr and rejectattr: keeps items whose test gives `wanted`.
Value choose(Interpreter& interpreter, const Value& input, Arguments& arguments, bool by_attribute,
             bool wanted) {
  const std::size_t test_at = by_attribute ? 1 : 0;
  Operation test = nullptr;
  if (arguments.find(test_at, "test") != nullptr) {
    const MarkedText& name = required_string(arguments, test_at, "test", "select");
    test = find_test(name.text());
    if (test == nullptr) fail("no test named {}", name.text());
  }
  List out;
  for (const Value& item : items_of(input)) {
    const Value tested =
        by_attribute ? attribute_of(item, required(arguments, 0, "attribute", "selectattr")) : item;
    interpreter.charge_value(tested);
    Arguments rest = tail(arguments, test_at + 1);
    const bool holds = is_true(test ? test(interpreter, tested, rest) : tested);
    if (holds == wanted) out.push_back(item);
  }
  return Value::list(std::move(out));
}

Value filter_select(Interpreter& interpreter, const Value& input, Arguments& arguments) {
  return choose(interpreter, input, arguments, false, true);
}
Value filter_reject(Interpreter& interpreter, const Value& input, Arguments& arguments) {
  return choose(interpreter, input, arguments, false, false);
}
Value filter_selectattr(Interpreter& interpreter, const Value& input, Arguments& arguments) {
  return choose(interpreter, input, arguments, true, true);
}
Value filter_rejectattr(Interpreter& interpreter, const Value& input, Arguments& arguments) {
  return choose(interpreter, input, arguments, true, false);
}

Value filter_batch(Interpreter&, const Value& input, Arguments& arguments) {
  const std::int64_t size = integer_or(arguments, 0, "linecount", 0, "batch");
  if (size < 1) fail("batch needs a positive linecount");
  const Value* fill = arguments.find(1, "fill_with");
  List out, row;
  const auto full = [&] { return row.size() >= static_cast<std::size_t>(size); };
  for (const Value& item : items_of(input)) {
    if (full()) out.push_back(Value::list(std::exchange(row, {})));
    row.push_back(item);
  }
  if (fill != nullptr && !row.empty() && size > 10'000) fail("batch: linecount is too large");
  while (fill != nullptr && !row.empty() && !full()) row.push_back(*fill);
  if (!row.empty()) out.push_back(Value::list(std::move(row)));
  return Value::list(std::move(out));
}

Value filter_groupby(Interpreter&, const Value& input, Arguments& arguments) {
  const Value& attribute = required(arguments, 0, "attribute", "groupby");
  Arguments sorting;
  sorting.named.emplace_back("attribute", attribute);
  const KeyOf key_of(sorting, 9, 9);
  const List sorted = sort_by_key(with_keys(items_of(input), key_of), false);
  List out;
  for (std::size_t begin = 0; begin < sorted.size();) {
    std::size_t end = begin + 1;
    while (end < sorted.size() && equals(key_of(sorted[begin]), key_of(sorted[end]))) ++end;
    List group(sorted.begin() + static_cast<std::ptrdiff_t>(begin),
               sorted.begin() + static_cast<std::ptrdiff_t>(end));
    out.push_back(
        Value::list({attribute_of(sorted[begin], attribute), Value::list(std::move(group))}, true));
    begin = end;
  }
  return Value::list(std::move(out));
}

constexpr std::pair<std::string_view, Operation> kFilters[] = {
    {"batch", filter_batch},
    {"dictsort", filter_dictsort},
    {"first", filter_first},
    {"groupby", filter_groupby},
    {"items", filter_items},
    {"join", filter_join},
    {"last", filter_last},
    {"list", filter_list},
    {"map", filter_map},
    {"max", filter_max},
    {"min", filter_min},
    {"reject", filter_reject},
    {"rejectattr", filter_rejectattr},
    {"reverse", filter_reverse},
    {"select", filter_select},
    {"selectattr", filter_selectattr},
    {"sort", filter_sort},
    {"sum", filter_sum},
    {"unique", filter_unique},
};

}  // namespace

Operation find_list_filter(std::string_view name) {
  for (const auto& [key, filter] : kFilters) {
    if (key == name) return filter;
  }
  return nullptr;
}

}  // namespace fulgur::text::jinja
