#include "common/base/clock.hpp"

#include <chrono>

namespace fulgur {

Nanoseconds RealClock::now() const {
  return std::chrono::steady_clock::now().time_since_epoch() / std::chrono::nanoseconds(1);
}

Nanoseconds RealClock::wall_now() const {
  return std::chrono::system_clock::now().time_since_epoch() / std::chrono::nanoseconds(1);
}

}  // namespace fulgur
