// Readings for durations of common/telemetry/hot_path.
#include "common/telemetry/hot_path.hpp"

#include <gtest/gtest.h>

#include <thread>

namespace fulgur::telemetry {
namespace {

TEST(HotPath, AClockOfATestIsReadAsItIs) {
  ManualClock clock;
  EXPECT_EQ(stamp(clock), clock.now());
  clock.advance(1234567);
  EXPECT_EQ(stamp(clock), clock.now());
}

TEST(HotPath, ReadingsOfAThreadNeverGoBack) {
  const RealClock clock;
  const auto ascend = [&clock] {
    Nanoseconds last = stamp(clock);
    EXPECT_GT(last, 0);
    // Long enough for the rate to be found and looked up anew.
    for (const Nanoseconds end = clock.now() + 120 * kMillisecond; clock.now() < end;) {
      const Nanoseconds next = stamp(clock);
      ASSERT_GE(next, last);
      last = next;
    }
  };
  std::thread other(ascend);
  ascend();
  other.join();
}

TEST(HotPath, TracedWorkIsStampedBetweenReadingsOfTheClockItself) {
  const RealClock clock;
  const TraceContext traced{1, 2, 3};
  for (const Nanoseconds end = clock.now() + 120 * kMillisecond; clock.now() < end;) {
    stamp(clock);  // the counter finds its rate meanwhile
    const Nanoseconds before = clock.now();
    const Nanoseconds at = stamp(clock, traced);
    ASSERT_LE(before, at);
    ASSERT_LE(at, clock.now());
  }
}

TEST(HotPath, UntracedWorkIsStampedAsAnyOther) {
  ManualClock clock;
  clock.advance(7);
  EXPECT_EQ(stamp(clock, {}), 7);
  hot_path = false;
  EXPECT_EQ(stamp(clock, {}), 0);
  hot_path = true;
}

TEST(HotPath, NothingIsReadWhenItIsOff) {
  const RealClock clock;
  hot_path = false;
  EXPECT_EQ(stamp(clock), 0);
  hot_path = true;
  EXPECT_GT(stamp(clock), 0);
}

}  // namespace
}  // namespace fulgur::telemetry
