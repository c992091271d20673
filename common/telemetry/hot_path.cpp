#include "common/telemetry/hot_path.hpp"

#include <algorithm>
#include <csignal>
#include <cstdint>
#include <cstdlib>
#include <string_view>
#include <typeinfo>

#if defined(__x86_64__)
#include <cpuid.h>
#include <x86intrin.h>
#endif

namespace fulgur::telemetry {
namespace {

bool obey_the_bench() {
  const char* value = std::getenv("FULGUR_HOT_PATH_TELEMETRY");
  if (value == nullptr || std::string_view(value) != "switch") return false;
  std::signal(SIGUSR1, [](int) { hot_path.store(!hot_path_on(), std::memory_order_relaxed); });
  return true;
}

[[maybe_unused]] const bool kSwitched = obey_the_bench();

#if defined(__x86_64__)

/// Whether the counter runs at one rate, in sleep too ("invariant TSC").
bool counter_is_steady() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(0x80000007, &a, &b, &c, &d) != 0 && (d & (1U << 8)) != 0;
}

/// One thread's view of the counter. The rate is that since the thread's first reading, looked up
/// anew every 50 ms; until there is one, readings are the clock's own.
class Counter {
 public:
  Nanoseconds read(const Clock& clock) {
    const std::uint64_t ticks = __rdtsc();
    if (ticks - seen_ticks_ >= settle_) settle(clock, ticks);
    if (rate_ <= 0) return last_ = std::max(last_, clock.now());
    const auto since = static_cast<Nanoseconds>(static_cast<double>(ticks - seen_ticks_) * rate_);
    return last_ = std::max(last_, seen_ + since);
  }

 private:
  static constexpr Nanoseconds kSettleEvery = 50 * kMillisecond;
  static constexpr Nanoseconds kRateAfter = 5 * kMillisecond;

  void settle(const Clock& clock, std::uint64_t ticks) {
    seen_ = clock.now();
    seen_ticks_ = ticks;
    if (first_ == 0) {
      first_ = seen_;
      first_ticks_ = ticks;
    }
    if (seen_ - first_ < kRateAfter) return;
    rate_ = static_cast<double>(seen_ - first_) / static_cast<double>(ticks - first_ticks_);
    settle_ = static_cast<std::uint64_t>(kSettleEvery / rate_);
  }

  Nanoseconds first_ = 0;
  std::uint64_t first_ticks_ = 0;
  Nanoseconds seen_ = 0;
  std::uint64_t seen_ticks_ = 0;
  std::uint64_t settle_ = 0;
  double rate_ = 0;  ///< nanoseconds a tick
  Nanoseconds last_ = 0;
};

#endif

}  // namespace

std::atomic<bool> hot_path{true};

Nanoseconds stamp(const Clock& clock) {
  if (!hot_path_on()) return 0;
#if defined(__x86_64__)
  static const bool steady = counter_is_steady();
  // A clock of a test or of the simulation is read as it is.
  if (steady && typeid(clock) == typeid(RealClock)) {
    thread_local Counter counter;
    return counter.read(clock);
  }
#endif
  return clock.now();
}

}  // namespace fulgur::telemetry
