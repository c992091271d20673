// Checks of invariants that stay on in release builds. A failed check throws AssertionError, which
// ends the actor that made it (its supervisor restarts it) or, outside an actor, the process.
#pragma once

#include <stdexcept>
#include <string>

namespace fulgur {

/// Thrown by FULGUR_ASSERT; never caught except at an actor or process boundary.
class AssertionError : public std::logic_error {
 public:
  using std::logic_error::logic_error;
};

[[noreturn]] void assertion_failed(const char* condition, const char* file, int line,
                                   const std::string& message);

}  // namespace fulgur

#define FULGUR_ASSERT(condition, message)                                                \
  do {                                                                                   \
    if (!(condition)) [[unlikely]]                                                       \
      ::fulgur::assertion_failed(#condition, __FILE__, __LINE__, message);               \
  } while (false)
