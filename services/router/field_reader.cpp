#include "services/router/field_reader.hpp"

#include <array>
#include <cmath>
#include <limits>

namespace fulgur::router {
namespace {

constexpr std::size_t kDepthMax = 64;
constexpr std::size_t kKeysMax = 1200;
// What a parsed value takes, some ten bytes of a body can be many times as large: numbers, as in lists
// of token ids, 16 bytes each; lists and objects five times that.
constexpr std::size_t kValuesMax = 5U << 20;
constexpr std::size_t kContainersMax = 1U << 16;

/// Refuses what would exhaust stacks or patience further on, before anything is built of it.
std::optional<ApiError> check_shape(std::string_view text) {
  std::array<std::size_t, kDepthMax + 1> keys{};
  std::size_t depth = 0;
  std::size_t values = 0;
  std::size_t containers = 0;
  bool in_string = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      in_string = c != '"';
    } else if (c == '"') {
      in_string = true;
    } else if (c == '{' || c == '[') {
      if (++depth > kDepthMax) {
        return bad_field("", fmt::format("the body is nested deeper than {} levels", kDepthMax));
      }
      if (++containers > kContainersMax) {
        return bad_field("", fmt::format("the body holds more than {} lists and objects",
                                         kContainersMax));
      }
      keys[depth] = 0;
    } else if (c == ',' && ++values > kValuesMax) {
      return bad_field("", fmt::format("the body holds more than {} values", kValuesMax));
    } else if (c == '}' || c == ']') {
      depth -= depth > 0 ? 1 : 0;
    } else if (c == ':' && ++keys[depth] > kKeysMax) {
      return bad_field("", fmt::format("an object of the body has more than {} keys", kKeysMax));
    }
  }
  return {};
}

/// The library's message without its "[json.exception…]" tag.
std::string plain_message(const char* what) {
  const std::string_view text(what);
  const std::size_t end = text.find("] ");
  return std::string(end == std::string_view::npos ? text : text.substr(end + 2));
}

/// The value as an integer, also when written as 3.0.
std::optional<std::int64_t> as_integer(const Json& value) {
  if (value.is_number_unsigned()) {
    const auto number = value.get<std::uint64_t>();
    if (number > static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max())) return {};
    return static_cast<std::int64_t>(number);
  }
  if (value.is_number_integer()) return value.get<std::int64_t>();
  if (!value.is_number_float()) return {};
  const double number = value.get<double>();
  if (std::trunc(number) != number || std::abs(number) > 0x1p53) return {};
  return static_cast<std::int64_t>(number);
}

}  // namespace

ApiResult<Json> parse_body(std::string_view text) {
  if (const auto refused = check_shape(text)) return *refused;
  try {
    Json body = Json::parse(text);
    if (body.is_object()) return body;
    return bad_field("", fmt::format("the body must be a JSON object, not {}", kind_of(body)));
  } catch (const Json::exception& failure) {
    return bad_field("", "the body is not valid JSON: " + plain_message(failure.what()));
  }
}

std::string_view kind_of(const Json& value) {
  switch (value.type()) {
    case Json::value_t::null: return "null";
    case Json::value_t::object: return "an object";
    case Json::value_t::array: return "an array";
    case Json::value_t::string: return "a string";
    case Json::value_t::boolean: return "a boolean";
    case Json::value_t::number_integer:
    case Json::value_t::number_unsigned: return "an integer";
    case Json::value_t::number_float: return "a number";
    default: return "something else";
  }
}

const Json* FieldReader::find(std::string_view name) const {
  const auto found = body_.find(name);
  return found == body_.end() || found->is_null() ? nullptr : &*found;
}

void FieldReader::fail(const ApiError& error) {
  if (!error_) error_ = error;
}

void FieldReader::fail(std::string_view name, std::string message, std::string code) {
  fail(bad_field(prefix_ + std::string(name), std::move(message), std::move(code)));
}

void FieldReader::wrong_type(std::string_view name, std::string_view wanted, const Json& value) {
  fail(name, fmt::format("Invalid type for '{}{}': expected {}, but got {}", prefix_, name, wanted,
                         kind_of(value)),
       "invalid_type");
}

std::optional<bool> FieldReader::boolean(std::string_view name) {
  const Json* value = find(name);
  if (value == nullptr) return {};
  if (value->is_boolean()) return value->get<bool>();
  wrong_type(name, "a boolean", *value);
  return {};
}

std::optional<std::string> FieldReader::string(std::string_view name) {
  const Json* value = find(name);
  if (value == nullptr) return {};
  if (value->is_string()) return value->get<std::string>();
  wrong_type(name, "a string", *value);
  return {};
}

std::optional<double> FieldReader::number(std::string_view name, double least, double most) {
  const Json* value = find(name);
  if (value == nullptr) return {};
  if (!value->is_number()) {
    wrong_type(name, "a number", *value);
    return {};
  }
  const double number = value->get<double>();
  if (number >= least && number <= most) return number;
  fail(name, fmt::format("Invalid value for '{}{}': {} is not between {} and {}", prefix_, name,
                         number, least, most), "invalid_value");
  return {};
}

std::optional<std::int64_t> FieldReader::integer(std::string_view name, std::int64_t least,
                                                 std::int64_t most) {
  const Json* value = find(name);
  if (value == nullptr) return {};
  const auto number = as_integer(*value);
  if (!number && !value->is_number()) {
    wrong_type(name, "an integer", *value);
  } else if (!number || *number < least || *number > most) {
    fail(name, fmt::format("Invalid value for '{}{}': {} is not an integer between {} and {}",
                           prefix_, name, value->dump(), least, most), "invalid_value");
  } else {
    return number;
  }
  return {};
}

const Json* FieldReader::object(std::string_view name) {
  const Json* value = find(name);
  if (value == nullptr || value->is_object()) return value;
  wrong_type(name, "an object", *value);
  return nullptr;
}

ApiResult<std::vector<std::uint32_t>> read_token_ids(const Json& list, const std::string& param,
                                                     std::uint64_t bound, std::size_t count_max) {
  if (!list.is_array()) {
    return bad_field(param, fmt::format("Invalid type for '{}': expected an array of token ids, "
                                        "but got {}", param, kind_of(list)), "invalid_type");
  }
  if (list.size() > count_max) {
    return bad_field(param, fmt::format("Invalid value for '{}': more than {} token ids", param,
                                        count_max), "invalid_value");
  }
  std::vector<std::uint32_t> ids;
  ids.reserve(list.size());
  for (const Json& item : list) {
    const auto id = as_integer(item);
    if (!id || *id < 0 || static_cast<std::uint64_t>(*id) >= bound) {
      return bad_field(param, fmt::format("Invalid value for '{}': {} is not a token id below {}",
                                          param, item.dump(), bound), "invalid_value");
    }
    ids.push_back(static_cast<std::uint32_t>(*id));
  }
  return ids;
}

std::optional<std::vector<std::uint32_t>> FieldReader::token_ids(std::string_view name,
                                                                 std::uint64_t bound,
                                                                 std::size_t count_max) {
  const Json* value = find(name);
  if (value == nullptr) return {};
  auto ids = read_token_ids(*value, prefix_ + std::string(name), bound, count_max);
  if (ids.is_ok()) return std::move(*ids);
  fail(ids.error());
  return {};
}

}  // namespace fulgur::router
