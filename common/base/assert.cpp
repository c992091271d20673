#include "common/base/assert.hpp"

#include <fmt/format.h>

namespace fulgur {

void assertion_failed(const char* condition, const char* file, int line,
                      const std::string& message) {
  throw AssertionError(fmt::format("{}:{}: assertion '{}' failed: {}", file, line, condition, message));
}

}  // namespace fulgur
