#include "common/model/json_file.hpp"

#include <cmath>
#include <utility>

#include "common/model/file.hpp"

namespace fulgur::model {

std::optional<simdjson::dom::element> JsonObject::find(std::string_view key) const {
  simdjson::dom::element element;
  if (object_.at_key(key).get(element) != simdjson::SUCCESS || element.is_null()) {
    return std::nullopt;
  }
  return element;
}

bool JsonObject::contains(std::string_view key) const {
  simdjson::dom::element element;
  return object_.at_key(key).get(element) == simdjson::SUCCESS;
}

Status JsonObject::bad(std::string_view key, std::string_view what) const {
  return error(Code::invalid_argument, "{}: {}{} {}", file_, prefix_, printable(key), what);
}

Result<std::uint64_t> JsonObject::integer(std::string_view key, std::uint64_t low,
                                          std::uint64_t high,
                                          std::optional<std::uint64_t> fallback) const {
  const auto element = find(key);
  if (!element) {
    if (fallback) return *fallback;
    return bad(key, "is missing");
  }
  if (element->is_array()) {
    return bad(key, "is a list; per-layer values are not supported");
  }
  std::uint64_t value = 0;
  if (element->get(value) != simdjson::SUCCESS || value < low || value > high) {
    return bad(key, fmt::format("must be an integer from {} to {}", low, high));
  }
  return value;
}

Result<double> JsonObject::number(std::string_view key, double low, double high,
                                  std::optional<double> fallback) const {
  const auto element = find(key);
  if (!element) {
    if (fallback) return *fallback;
    return bad(key, "is missing");
  }
  double value = 0;
  if (element->get(value) != simdjson::SUCCESS || !std::isfinite(value) || value < low ||
      value > high) {
    return bad(key, fmt::format("must be a number from {} to {}", low, high));
  }
  return value;
}

Result<bool> JsonObject::boolean(std::string_view key, bool fallback) const {
  const auto element = find(key);
  if (!element) return fallback;
  bool value = false;
  if (element->get(value) != simdjson::SUCCESS) return bad(key, "must be true or false");
  return value;
}

Result<std::string> JsonObject::text(std::string_view key,
                                     std::optional<std::string> fallback) const {
  const auto element = find(key);
  if (!element) {
    if (fallback) return *std::move(fallback);
    return bad(key, "is missing");
  }
  std::string_view value;
  if (element->get(value) != simdjson::SUCCESS) return bad(key, "must be a string");
  return std::string(value);
}

Result<std::optional<JsonObject>> JsonObject::object(std::string_view key) const {
  const auto element = find(key);
  if (!element) return std::optional<JsonObject>();
  simdjson::dom::object value;
  if (element->get(value) != simdjson::SUCCESS) return bad(key, "must be an object");
  return std::optional<JsonObject>(JsonObject(value, file_, fmt::format("{}{}.", prefix_, key)));
}

Result<JsonFile> JsonFile::parse(std::string_view text, const std::string& file, Code code) {
  JsonFile out;
  out.file_ = file;
  out.parser_ = std::make_unique<simdjson::dom::parser>();
  simdjson::dom::element root;
  const auto failure = out.parser_->parse(text.data(), text.size()).get(root);
  if (failure != simdjson::SUCCESS) {
    return error(code, "{}: is not valid JSON ({})", file, simdjson::error_message(failure));
  }
  if (root.get(out.root_) != simdjson::SUCCESS) {
    return error(code, "{}: must hold a JSON object", file);
  }
  return out;
}

Result<JsonFile> JsonFile::load(const std::string& path, std::size_t bytes_max) {
  FULGUR_ASSIGN_OR_RETURN(const std::string text, read_small_file(path, bytes_max));
  return parse(text, path);
}

}  // namespace fulgur::model
