// Expected failures as values. A function that can fail for reasons outside the program returns
// Status or Result<T>; the caller decides once, at an actor or process boundary. Broken invariants
// are not failures: they are FULGUR_ASSERT (assert.hpp).
#pragma once

#include <fmt/format.h>

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>

#include "common/base/assert.hpp"

namespace fulgur {

/// Why an operation failed. Values travel on the wire: append, never renumber.
enum class Code : unsigned char {
  ok = 0,
  invalid_argument = 1,     ///< the caller's input is wrong; retrying cannot help
  not_found = 2,
  unavailable = 3,          ///< a peer is away; retrying elsewhere or later may help
  resource_exhausted = 4,   ///< a bounded resource is full: "busy", try later
  deadline_exceeded = 5,
  cancelled = 6,
  failed_precondition = 7,  ///< the state does not allow it (wrong epoch, draining, …)
  data_loss = 8,            ///< corrupt or truncated data
  internal = 9,
};

/// Lower-case name of a code, e.g. "resource_exhausted".
std::string_view to_string(Code code);

/// Success or a code with one line of text. Cheap to return when ok.
class [[nodiscard]] Status {
 public:
  Status() = default;
  Status(Code code, std::string message) : code_(code), message_(std::move(message)) {}

  static Status ok() { return {}; }
  bool is_ok() const { return code_ == Code::ok; }
  explicit operator bool() const { return is_ok(); }
  Code code() const { return code_; }
  const std::string& message() const { return message_; }
  /// "resource_exhausted: send queue to expert-1 is full".
  std::string to_string() const;

 private:
  Code code_ = Code::ok;
  std::string message_;
};

/// A failed Status with a formatted message: error(Code::not_found, "no tensor {}", name).
template <class... Args>
Status error(Code code, fmt::format_string<Args...> format, Args&&... args) {
  return {code, fmt::format(format, std::forward<Args>(args)...)};
}

/// A value or the Status that says why there is none.
template <class T>
class [[nodiscard]] Result {
 public:
  Result(T value) : value_(std::move(value)) {}  // NOLINT(google-explicit-constructor)
  Result(Status status) : status_(std::move(status)) {  // NOLINT(google-explicit-constructor)
    FULGUR_ASSERT(!status_.is_ok(), "a Result without a value needs a failed Status");
  }

  bool is_ok() const { return value_.has_value(); }
  explicit operator bool() const { return is_ok(); }
  const Status& status() const { return status_; }

  T& value() & { return checked(); }
  const T& value() const& { return const_cast<Result*>(this)->checked(); }
  T&& value() && { return std::move(checked()); }
  T& operator*() & { return checked(); }
  const T& operator*() const& { return value(); }
  T&& operator*() && { return std::move(checked()); }
  T* operator->() { return &checked(); }
  const T* operator->() const { return &value(); }

 private:
  T& checked() {
    FULGUR_ASSERT(value_.has_value(), status_.to_string());
    return *value_;
  }

  std::optional<T> value_;
  Status status_;
};

}  // namespace fulgur

/// Returns from the enclosing function when `expression` (a Status) failed.
#define FULGUR_RETURN_IF_ERROR(expression)                          \
  do {                                                              \
    if (::fulgur::Status fulgur_status_ = (expression); !fulgur_status_.is_ok()) \
      return fulgur_status_;                                        \
  } while (false)

#define FULGUR_CONCAT_INNER(a, b) a##b
#define FULGUR_CONCAT(a, b) FULGUR_CONCAT_INNER(a, b)

/// FULGUR_ASSIGN_OR_RETURN(auto x, f()): binds the value, or returns the failed Status.
#define FULGUR_ASSIGN_OR_RETURN(declaration, expression)                       \
  auto FULGUR_CONCAT(fulgur_result_, __LINE__) = (expression);                 \
  if (!FULGUR_CONCAT(fulgur_result_, __LINE__).is_ok())                        \
    return FULGUR_CONCAT(fulgur_result_, __LINE__).status();                   \
  declaration = std::move(FULGUR_CONCAT(fulgur_result_, __LINE__)).value()
