// Errors as OpenAI's API shapes them: {"error":{"message","type","param","code"}} and an HTTP status.
#pragma once

#include <fmt/format.h>

#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "common/base/assert.hpp"
#include "common/base/status.hpp"
#include "common/http/responder.hpp"

namespace fulgur::router {

struct ApiError {
  int status = 400;
  std::string message;
  std::string type = "invalid_request_error";
  std::string param;       ///< the offending field; empty: null
  std::string code;        ///< machine-readable; empty: null
  int retry_after_s = 0;   ///< > 0: sent as Retry-After

  /// The JSON body.
  std::string body() const;
};

/// A field of the request that cannot be accepted.
ApiError bad_field(std::string param, std::string message, std::string code = "");
ApiError unknown_model(std::string_view name);
ApiError bad_api_key();
/// 429: every place is taken.
ApiError busy(std::string message);
/// 503: nobody can serve the request now.
ApiError unavailable(std::string message);
/// What a failed Status of the mesh means to a client.
ApiError from_status(const Status& status);
/// Answers with the error's status, body and headers.
void respond_error(const http::Responder& responder, const ApiError& error);
/// What the HTTP layer refuses by itself: 400, 404, 405, 413, 431, 500, 503.
ApiError from_http(int status, std::string_view message);

/// A value or the error to answer.
template <class T>
class [[nodiscard]] ApiResult {
 public:
  ApiResult(T value) : value_(std::move(value)) {}              // NOLINT(google-explicit-constructor)
  ApiResult(ApiError error) : error_(std::move(error)) {}       // NOLINT(google-explicit-constructor)

  bool is_ok() const { return value_.has_value(); }
  const ApiError& error() const { return error_; }
  T& operator*() {
    FULGUR_ASSERT(value_.has_value(), error_.message);
    return *value_;
  }
  T* operator->() { return &**this; }

 private:
  std::optional<T> value_;
  ApiError error_;
};

}  // namespace fulgur::router
