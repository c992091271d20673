#include "common/transport/device_window.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "common/base/rng.hpp"

namespace fulgur::transport {
namespace {

constexpr std::uint64_t kSize = 16 * 4096;

TEST(DeviceWindow, TensorsAreContiguousAndNeverOverlap) {
  struct Live {
    std::uint64_t sequence, offset, bytes;
  };
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    Rng rng(seed);
    DeviceWindow sender(kSize);
    DeviceReceipts receiver(kSize);
    std::vector<Live> live;
    std::uint64_t sequence = 0;
    for (int step = 0; step < 2000; ++step) {
      const std::uint64_t bytes = 1 + rng.below(sender.largest());
      if (sender.fits(bytes)) {
        ASSERT_TRUE(receiver.window().fits(bytes)) << "the receiver knows of more room, never less";
        const std::uint64_t offset = sender.take(bytes);
        ASSERT_EQ(receiver.take(bytes), offset);
        ASSERT_LE(offset + bytes, kSize);
        ASSERT_EQ(offset % DeviceWindow::kAlign, 0U);
        for (const Live& other : live) {
          ASSERT_TRUE(offset >= other.offset + other.bytes || other.offset >= offset + bytes)
              << "seed " << seed;
        }
        live.push_back({++sequence, offset, bytes});
      }
      if (!live.empty() && rng.below(2) == 0) {
        const auto gone = live.begin() + static_cast<std::ptrdiff_t>(rng.below(live.size()));
        receiver.release(gone->sequence);
        live.erase(gone);
      }
      if (receiver.report_due() || rng.below(10) == 0) {
        ASSERT_TRUE(sender.release_to(receiver.report()));
      }
    }
  }
}

/// The rule behind DeviceWindow::largest(): with nothing outstanding and only due reports made, the
/// largest tensor fits wherever the ring stands.
TEST(DeviceWindow, NothingOutstandingMeansRoomForTheLargest) {
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    Rng rng(seed);
    DeviceWindow sender(kSize);
    DeviceReceipts receiver(kSize);
    for (std::uint64_t sequence = 1; sequence < 500; ++sequence) {
      ASSERT_TRUE(sender.fits(sender.largest())) << "seed " << seed << " at " << sequence;
      const std::uint64_t bytes =
          rng.below(3) == 0 ? sender.largest() - rng.below(300) : 1 + rng.below(sender.largest());
      sender.take(bytes);
      receiver.take(bytes);
      receiver.release(sequence);
      if (!receiver.report_due()) continue;
      ASSERT_TRUE(sender.release_to(receiver.report()));
    }
  }
}

TEST(DeviceWindow, RefusesWhatCannotBe) {
  DeviceWindow window(kSize);
  EXPECT_FALSE(window.fits(window.largest() + 1));
  EXPECT_FALSE(window.release_to(1));
  window.take(1000);
  EXPECT_TRUE(window.release_to(1024));
  EXPECT_FALSE(window.release_to(512)) << "credits do not go back";
  EXPECT_FALSE(window.release_to(1025));
}

}  // namespace
}  // namespace fulgur::transport
