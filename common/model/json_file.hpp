// Typed, bounded access to the keys of a JSON file, for configurations and indexes. Every failure
// is one line that names the file and the key. Not thread-safe.
#pragma once

#include <simdjson.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "common/base/status.hpp"

namespace fulgur::model {

/// One JSON object; null values count as absent. Valid while its JsonFile lives.
class JsonObject {
 public:
  JsonObject(simdjson::dom::object object, std::string file, std::string prefix = {})
      : object_(object), file_(std::move(file)), prefix_(std::move(prefix)) {}

  /// The element at `key`, or nothing when absent or null.
  std::optional<simdjson::dom::element> find(std::string_view key) const;
  /// True when the key is there, null included.
  bool contains(std::string_view key) const;

  /// An integer in [low, high]; `fallback` when absent, or invalid_argument without one.
  Result<std::uint64_t> integer(std::string_view key, std::uint64_t low, std::uint64_t high,
                                std::optional<std::uint64_t> fallback = std::nullopt) const;
  /// A finite number in [low, high].
  Result<double> number(std::string_view key, double low, double high,
                        std::optional<double> fallback = std::nullopt) const;
  Result<bool> boolean(std::string_view key, bool fallback) const;
  Result<std::string> text(std::string_view key,
                           std::optional<std::string> fallback = std::nullopt) const;
  /// A nested object, or nothing when absent.
  Result<std::optional<JsonObject>> object(std::string_view key) const;

  /// invalid_argument "<file>: <key> <what>".
  Status bad(std::string_view key, std::string_view what) const;
  const std::string& file() const { return file_; }
  simdjson::dom::object members() const { return object_; }

 private:
  simdjson::dom::object object_;
  std::string file_;
  std::string prefix_;
};

/// A parsed file whose root is an object.
class JsonFile {
 public:
  /// Parses the file at `path`; not_found, data_loss (too long) or invalid_argument (bad JSON).
  static Result<JsonFile> load(const std::string& path, std::size_t bytes_max);
  /// Parses `text`; `file` names it in messages. `code` is the code of a syntax error.
  static Result<JsonFile> parse(std::string_view text, const std::string& file,
                                Code code = Code::invalid_argument);

  JsonObject root() const { return {root_, file_}; }

 private:
  std::unique_ptr<simdjson::dom::parser> parser_;
  simdjson::dom::object root_;
  std::string file_;
};

}  // namespace fulgur::model
