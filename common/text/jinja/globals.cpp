// Functions every template can call. The set is the one Hugging Face gives chat templates.
#include <array>
#include <ctime>

#include "common/text/jinja/arguments.hpp"
#include "common/text/jinja/interpreter.hpp"
#include "common/text/jinja/library.hpp"
#include "common/text/jinja/operations.hpp"

namespace fulgur::text::jinja {
namespace {

constexpr std::int64_t kMaxRange = 100'000;  // Jinja2's sandbox has the same

Value make_range(Interpreter& interpreter, Arguments& arguments) {
  if (arguments.positional.empty() || arguments.positional.size() > 3)
    fail("range needs 1 to 3 integers");
  const bool has_start = arguments.positional.size() > 1;
  const std::int64_t start = has_start ? integer_or(arguments, 0, "start", 0, "range") : 0;
  const std::int64_t stop = integer_or(arguments, has_start ? 1 : 0, "stop", 0, "range");
  const std::int64_t step = integer_or(arguments, 2, "step", 1, "range");
  if (step == 0) fail("range: the step is zero");
  List out;
  for (std::int64_t i = start; step > 0 ? i < stop : i > stop;) {
    if (out.size() >= kMaxRange) fail("range is longer than {}", kMaxRange);
    out.push_back(Value::integer(i));
    if (__builtin_add_overflow(i, step, &i)) break;
  }
  interpreter.charge(out.size());
  return Value::list(std::move(out));
}

Value make_dict(const Arguments& arguments, bool is_namespace) {
  Dict out;
  if (!arguments.positional.empty()) {
    const Dict* base = arguments.positional[0].as_dict();
    if (base == nullptr)
      fail("dict and namespace take a dict, not {}", type_name(arguments.positional[0]));
    out.entries = base->entries;
  }
  out.is_namespace = is_namespace;
  for (const auto& [name, value] : arguments.named) {
    if (is_namespace && !value.is_plain()) fail("a namespace cannot hold a {}", type_name(value));
    out.set(MarkedText(name, true), value);
  }
  return Value::dict(std::move(out));
}

Value new_namespace(Interpreter&, Arguments& arguments) { return make_dict(arguments, true); }
Value new_dict(Interpreter&, Arguments& arguments) { return make_dict(arguments, false); }

Value raise_exception(Interpreter&, Arguments& arguments) {
  fail("{}", to_text(required(arguments, 0, "message", "raise_exception")).text());
}

/// The server's local time in strftime's notation.
Value strftime_now(Interpreter& interpreter, Arguments& arguments) {
  const std::string& format = required_string(arguments, 0, "format", "strftime_now").text();
  const std::time_t seconds = static_cast<std::time_t>(interpreter.wall_now() / kSecond);
  std::tm local{};
  localtime_r(&seconds, &local);
  std::array<char, 512> buffer{};
  const std::size_t length = std::strftime(buffer.data(), buffer.size(), format.c_str(), &local);
  if (length == 0 && !format.empty()) fail("strftime_now: the result is empty or too long");
  return Value::trusted({buffer.data(), length});
}

}  // namespace

Value find_global(const std::string& name) {
  if (name == "range") return Value::function(name, make_range);
  if (name == "namespace") return Value::function(name, new_namespace);
  if (name == "dict") return Value::function(name, new_dict);
  if (name == "raise_exception") return Value::function(name, raise_exception);
  if (name == "strftime_now") return Value::function(name, strftime_now);
  return {};
}

}  // namespace fulgur::text::jinja
