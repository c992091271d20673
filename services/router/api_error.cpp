#include "services/router/api_error.hpp"

#include <nlohmann/json.hpp>

namespace fulgur::router {
namespace {

nlohmann::json text_or_null(const std::string& text) {
  return text.empty() ? nlohmann::json(nullptr) : nlohmann::json(text);
}

}  // namespace

std::string ApiError::body() const {
  const nlohmann::ordered_json body = {{"error",
                                        {{"message", message},
                                         {"type", type},
                                         {"param", text_or_null(param)},
                                         {"code", text_or_null(code)}}}};
  return body.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

ApiError bad_field(std::string param, std::string message, std::string code) {
  return {.message = std::move(message), .param = std::move(param), .code = std::move(code)};
}

ApiError unknown_model(std::string_view name) {
  return {.status = 404,
          .message = fmt::format("The model `{}` does not exist", name),
          .param = "model",
          .code = "model_not_found"};
}

ApiError bad_api_key() {
  return {.status = 401,
          .message = "Incorrect API key provided",
          .type = "authentication_error",
          .param = {},
          .code = "invalid_api_key"};
}

ApiError busy(std::string message) {
  return {.status = 429,
          .message = std::move(message),
          .type = "rate_limit_error",
          .param = {},
          .code = "rate_limit_exceeded",
          .retry_after_s = 1};
}

ApiError unavailable(std::string message) {
  return {.status = 503,
          .message = std::move(message),
          .type = "server_error",
          .param = {},
          .code = "service_unavailable",
          .retry_after_s = 2};
}

ApiError from_status(const Status& status) {
  switch (status.code()) {
    case Code::invalid_argument: return {.message = status.message(), .param = {}, .code = {}};
    case Code::resource_exhausted: return busy(status.message());
    case Code::unavailable:
    case Code::failed_precondition: return unavailable(status.message());
    case Code::deadline_exceeded:
      return {.status = 504, .message = status.message(), .type = "server_error", .param = {},
              .code = "timeout"};
    default:
      return {.status = 500, .message = status.message(), .type = "server_error", .param = {},
              .code = "internal_error"};
  }
}

void respond_error(const http::Responder& responder, const ApiError& error) {
  std::vector<http::Header> headers;
  if (error.retry_after_s > 0) {
    headers.push_back({"Retry-After", std::to_string(error.retry_after_s)});
  }
  if (error.status == 401) headers.push_back({"WWW-Authenticate", "Bearer"});
  responder.respond(error.status, "application/json", error.body(), std::move(headers));
}

ApiError from_http(int status, std::string_view message) {
  if (status == 503) return unavailable(std::string(message));
  ApiError error{.status = status, .message = std::string(message), .param = {}, .code = {}};
  if (status == 413) error.code = "body_too_large";
  if (status >= 500) error.type = "server_error";
  return error;
}

}  // namespace fulgur::router
