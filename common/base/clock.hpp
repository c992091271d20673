// Time as a dependency. Logic that decides by time takes a Clock&, so tests and the simulation run
// on virtual time. Durations are signed nanoseconds in int64: 292 years.
#pragma once

#include <cstdint>

namespace fulgur {

using Nanoseconds = std::int64_t;

inline constexpr Nanoseconds kMicrosecond = 1'000;
inline constexpr Nanoseconds kMillisecond = 1'000'000;
inline constexpr Nanoseconds kSecond = 1'000'000'000;

class Clock {
 public:
  virtual ~Clock() = default;
  /// Monotonic time in nanoseconds; the origin is arbitrary but common to the host.
  virtual Nanoseconds now() const = 0;
  /// Nanoseconds since the Unix epoch; comparable between hosts up to their clock skew.
  virtual Nanoseconds wall_now() const = 0;
};

/// The host's clocks. Thread-safe.
class RealClock final : public Clock {
 public:
  Nanoseconds now() const override;
  Nanoseconds wall_now() const override;
};

/// A clock that moves only when told to. Not thread-safe.
class ManualClock final : public Clock {
 public:
  Nanoseconds now() const override { return now_; }
  Nanoseconds wall_now() const override { return kWallOrigin + now_; }
  void advance(Nanoseconds by) { now_ += by; }

 private:
  static constexpr Nanoseconds kWallOrigin = 1'700'000'000 * kSecond;
  Nanoseconds now_ = 0;
};

}  // namespace fulgur
