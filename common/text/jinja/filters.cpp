// Filters on single values; those that go through lists are in list_filters.cpp. Behaviour is that
// of Jinja2's filters.py, tojson that of Hugging Face's chat templates.
#include "common/text/jinja/filters.hpp"

#include <algorithm>
#include <charconv>
#include <cmath>

#include "common/text/jinja/arguments.hpp"
#include "common/text/jinja/interpreter.hpp"
#include "common/text/jinja/library.hpp"
#include "common/text/jinja/operations.hpp"
#include "common/text/jinja/text_operations.hpp"

namespace fulgur::text::jinja {
namespace {

constexpr std::int64_t kMaxIndent = 64;

Value filter_trim(Interpreter&, const Value& input, Arguments& arguments) {
  const MarkedText* set = string_or_null(arguments, 0, "chars", "trim");
  const auto characters = set ? std::optional<std::string_view>(set->text()) : std::nullopt;
  return Value::string(strip(to_text(input), Side::both, characters));
}

Value filter_upper(Interpreter&, const Value& input, Arguments&) {
  return Value::string(to_upper(to_text(input)));
}

Value filter_lower(Interpreter&, const Value& input, Arguments&) {
  return Value::string(to_lower(to_text(input)));
}

Value filter_capitalize(Interpreter&, const Value& input, Arguments&) {
  return Value::string(capitalize(to_text(input)));
}

Value filter_title(Interpreter&, const Value& input, Arguments&) {
  return Value::string(capitalize_words(to_text(input)));
}

Value filter_string(Interpreter&, const Value& input, Arguments&) {
  return Value::string(to_text(input));
}

Value filter_safe(Interpreter&, const Value& input, Arguments&) { return input; }

Value filter_escape(Interpreter&, const Value& input, Arguments&) {
  return Value::string(escape_html(to_text(input)));
}

Value filter_default(Interpreter&, const Value& input, Arguments& arguments) {
  const bool replace_false = bool_or(arguments, 1, "boolean", false);
  if (!input.is_undefined() && (!replace_false || is_true(input))) return input;
  const Value* fallback = arguments.find(0, "default_value");
  return fallback ? *fallback : Value::trusted("");
}

Value filter_length(Interpreter&, const Value& input, Arguments&) {
  return Value::integer(static_cast<std::int64_t>(length_of(input)));
}

Value filter_replace(Interpreter& interpreter, const Value& input, Arguments& arguments) {
  const MarkedText& from = required_string(arguments, 0, "old", "replace");
  const MarkedText& to = required_string(arguments, 1, "new", "replace");
  const std::int64_t limit = integer_or(arguments, 2, "count", -1, "replace");
  const MarkedText text = to_text(input);
  check_replacement(interpreter, text, from, to);
  return Value::string(replace(text, from.text(), to, limit));
}

Value filter_tojson(Interpreter&, const Value& input, Arguments& arguments) {
  // (ensure_ascii=False, indent=None, separators=None, sort_keys=False); a positional number is
  // taken as the indent, which is what templates that write one mean.
  const Value* first = arguments.find(0, "ensure_ascii");
  const bool has_indent = first != nullptr && first->get<std::int64_t>() != nullptr;
  if (first != nullptr && !has_indent && is_true(*first))
    fail("tojson: ensure_ascii is not supported");
  const std::int64_t given =
      has_indent ? *first->get<std::int64_t>() : integer_or(arguments, 1, "indent", -1, "tojson");
  if (given > kMaxIndent) fail("tojson: indent is above {}", kMaxIndent);
  std::string item_separator, key_separator;
  if (const Value* separators = arguments.find(2, "separators");
      separators != nullptr && separators->as_list() && separators->as_list()->size() == 2) {
    item_separator = to_text((*separators->as_list())[0]).text();
    key_separator = to_text((*separators->as_list())[1]).text();
  }
  return Value::string(to_json(input, static_cast<int>(std::max<std::int64_t>(given, -1)),
                               bool_or(arguments, 3, "sort_keys", false), item_separator,
                               key_separator));
}

Value filter_int(Interpreter&, const Value& input, Arguments& arguments) {
  const Value* fallback = arguments.find(0, "default");
  const Value otherwise = fallback ? *fallback : Value::integer(0);
  if (input.get<std::int64_t>()) return input;
  if (const auto* boolean = input.get<bool>()) return Value::integer(*boolean ? 1 : 0);
  double real = 0;
  if (const auto* number = input.get<double>()) {
    real = *number;
  } else if (const MarkedText* text = input.as_string()) {
    const MarkedText stripped = strip(*text, Side::both, std::nullopt);
    std::string_view digits = stripped.text();
    if (digits.starts_with('+')) digits.remove_prefix(1);
    const char* end = digits.data() + digits.size();
    const std::int64_t base = integer_or(arguments, 1, "base", 10, "int");
    if (base < 2 || base > 36) fail("int: base must be 2 to 36");
    std::int64_t integer = 0;
    const auto parsed = std::from_chars(digits.data(), end, integer, static_cast<int>(base));
    if (parsed.ec == std::errc() && parsed.ptr == end) return Value::integer(integer);
    const auto as_real = std::from_chars(digits.data(), end, real);
    if (as_real.ec != std::errc() || as_real.ptr != end) return otherwise;
  } else {
    return otherwise;
  }
  if (!(std::fabs(real) < 9e18)) return otherwise;
  return Value::integer(static_cast<std::int64_t>(real));
}

Value filter_float(Interpreter&, const Value& input, Arguments& arguments) {
  const Value* fallback = arguments.find(0, "default");
  if (input.get<double>()) return input;
  if (const auto* integer = input.get<std::int64_t>()) {
    return Value::real(static_cast<double>(*integer));
  }
  if (const auto* boolean = input.get<bool>()) return Value::real(*boolean ? 1 : 0);
  if (const MarkedText* text = input.as_string()) {
    const MarkedText stripped = strip(*text, Side::both, std::nullopt);
    const char* end = stripped.text().data() + stripped.size();
    double real = 0;
    const auto parsed = std::from_chars(stripped.text().data(), end, real);
    if (parsed.ec == std::errc() && parsed.ptr == end && !stripped.empty())
      return Value::real(real);
  }
  return fallback ? *fallback : Value::real(0);
}

Value filter_round(Interpreter&, const Value& input, Arguments& arguments) {
  const std::int64_t precision = integer_or(arguments, 0, "precision", 0, "round");
  const MarkedText* method = string_or_null(arguments, 1, "method", "round");
  if (!input.is_number() || precision < -300 || precision > 300) fail("round needs a number");
  const double value = *arithmetic(BinaryOp::multiply, input, Value::real(1)).get<double>();
  const double scale = std::pow(10.0, static_cast<double>(precision));
  const std::string_view how = method ? std::string_view(method->text()) : "common";
  if (how == "ceil") return Value::real(std::ceil(value * scale) / scale);
  if (how == "floor") return Value::real(std::floor(value * scale) / scale);
  if (how != "common") fail("round: unknown method {}", how);
  return Value::real(std::nearbyint(value * scale) / scale);
}

Value filter_abs(Interpreter&, const Value& input, Arguments&) {
  if (!input.is_number()) fail("abs needs a number, not {}", type_name(input));
  return is_less(input, Value::integer(0)) ? negate(input) : input;
}

Value filter_indent(Interpreter&, const Value& input, Arguments& arguments) {
  const Value* width = arguments.find(0, "width");
  MarkedText prefix(std::string(4, ' '), true);
  if (width != nullptr && width->as_string()) {
    prefix = *width->as_string();
  } else if (width != nullptr) {
    const std::int64_t spaces = integer_or(arguments, 0, "width", 4, "indent");
    if (spaces < 0 || spaces > kMaxIndent) fail("indent: width must be 0 to {}", kMaxIndent);
    prefix = MarkedText(std::string(static_cast<std::size_t>(spaces), ' '), true);
  }
  const bool first = bool_or(arguments, 1, "first", false);
  const bool blank = bool_or(arguments, 2, "blank", false);
  const std::vector<MarkedText> lines = split(to_text(input), "\n", -1);
  MarkedText out;
  for (std::size_t i = 0; i < lines.size(); ++i) {
    if (i > 0) out.append("\n", true);
    const bool indents = i == 0 ? first : blank || !lines[i].empty();
    if (indents) out.append(prefix);
    out.append(lines[i]);
  }
  return Value::string(std::move(out));
}

Value filter_wordcount(Interpreter&, const Value& input, Arguments&) {
  const auto words = split(to_text(input), std::nullopt, -1);
  return Value::integer(static_cast<std::int64_t>(words.size()));
}

Value filter_attr(Interpreter&, const Value& input, Arguments& arguments) {
  return subscript(input, Value::string(required_string(arguments, 0, "name", "attr")));
}

constexpr std::pair<std::string_view, Operation> kFilters[] = {
    {"abs", filter_abs},
    {"attr", filter_attr},
    {"capitalize", filter_capitalize},
    {"count", filter_length},
    {"d", filter_default},
    {"default", filter_default},
    {"e", filter_escape},
    {"escape", filter_escape},
    {"float", filter_float},
    {"indent", filter_indent},
    {"int", filter_int},
    {"length", filter_length},
    {"lower", filter_lower},
    {"replace", filter_replace},
    {"round", filter_round},
    {"safe", filter_safe},
    {"string", filter_string},
    {"title", filter_title},
    {"tojson", filter_tojson},
    {"trim", filter_trim},
    {"upper", filter_upper},
    {"wordcount", filter_wordcount},
};

}  // namespace

void check_replacement(Interpreter& interpreter, const MarkedText& text, const MarkedText& from,
                       const MarkedText& to) {
  // The longest possible result, before it is made.
  const std::size_t places = text.size() / std::max<std::size_t>(from.size(), 1) + 1;
  if (to.size() > 0 && places > (std::size_t{1} << 40U) / to.size()) fail("text is too long");
  if (to.size() <= from.size()) return;
  std::size_t found = 0;
  if (from.empty()) {
    found = places;
  } else {
    const std::string& bytes = text.text();
    for (std::size_t at = bytes.find(from.text()); at != std::string::npos;
         at = bytes.find(from.text(), at + from.size())) {
      ++found;
    }
  }
  interpreter.charge_text(text.size() + found * to.size());
}

Operation find_filter(std::string_view name) {
  for (const auto& [key, filter] : kFilters) {
    if (key == name) return filter;
  }
  return find_list_filter(name);
}

}  // namespace fulgur::text::jinja
