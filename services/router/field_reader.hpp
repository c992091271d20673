// Typed access to the fields of a request body. Absent and null mean "not given"; the first field of
// a wrong type or out of range becomes the error, and reading goes on with "not given".
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

#include "services/router/api_error.hpp"

namespace fulgur::router {

/// Keeps the order of keys, which chat templates print.
using Json = nlohmann::ordered_json;

/// Parses a request body: a JSON object, valid UTF-8, nested at most 64 deep, at most 1200 keys in
/// one object (finding a key in a Json takes time linear in their number).
ApiResult<Json> parse_body(std::string_view text);

class FieldReader {
 public:
  /// `body` is an object and outlives the reader. `prefix` names it in errors: "stream_options.".
  explicit FieldReader(const Json& body, std::string prefix = "")
      : body_(body), prefix_(std::move(prefix)) {}

  /// The field, or null when it is not given.
  const Json* find(std::string_view name) const;
  std::optional<bool> boolean(std::string_view name);
  std::optional<std::string> string(std::string_view name);
  std::optional<double> number(std::string_view name, double least, double most);
  std::optional<std::int64_t> integer(std::string_view name, std::int64_t least,
                                      std::int64_t most);
  /// A list of integers in [0, bound); at most `count_max` of them.
  std::optional<std::vector<std::uint32_t>> token_ids(std::string_view name, std::uint64_t bound,
                                                      std::size_t count_max);
  /// An object to read with a FieldReader of its own.
  const Json* object(std::string_view name);

  void fail(std::string_view name, std::string message, std::string code = "");
  void fail(const ApiError& error);
  bool ok() const { return !error_.has_value(); }
  const ApiError& error() const { return *error_; }

 private:
  void wrong_type(std::string_view name, std::string_view wanted, const Json& value);

  const Json& body_;
  std::string prefix_;
  std::optional<ApiError> error_;
};

/// "a string", "an integer", … of a value, for messages.
std::string_view kind_of(const Json& value);

/// A list of token ids below `bound`; names `param` in the error.
ApiResult<std::vector<std::uint32_t>> read_token_ids(const Json& list, const std::string& param,
                                                     std::uint64_t bound, std::size_t count_max);

}  // namespace fulgur::router
