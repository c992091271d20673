// Decay by tokens and by time, and what it ignores.
#include "services/orchestrator/load_history.hpp"

#include <gtest/gtest.h>

namespace fulgur::orchestrator {
namespace {

constexpr ModelShape kShape{2, 4};

TEST(LoadHistory, HalvesAfterAHalfLifeOfTokens) {
  ManualClock clock;
  LoadHistory history(kShape, {100, 0}, clock);
  history.add(std::vector<wire::ExpertTokens>{{0, 1, 100}, {1, 2, 100}});
  EXPECT_EQ(history.snapshot(), (std::vector<double>{0, 100, 0, 0, 0, 0, 100, 0}));
  history.add(std::vector<wire::ExpertTokens>{{0, 3, 100}, {1, 3, 100}});
  EXPECT_EQ(history.snapshot(), (std::vector<double>{0, 50, 0, 100, 0, 0, 50, 100}));
  EXPECT_EQ(history.tokens_per_layer(), 150);
}

TEST(LoadHistory, AnIdleMeshForgetsByTimeOnlyWhenAsked) {
  ManualClock clock;
  LoadHistory keeps(kShape, {100, 0}, clock);
  LoadHistory forgets(kShape, {0, 2 * kSecond}, clock);
  const std::vector<wire::ExpertTokens> increments{{0, 0, 64}};
  keeps.add(increments);
  forgets.add(increments);
  clock.advance(4 * kSecond);
  EXPECT_EQ(keeps.snapshot()[0], 64);
  EXPECT_EQ(forgets.snapshot()[0], 16);
  forgets.add(increments);
  EXPECT_EQ(forgets.snapshot()[0], 80);
}

TEST(LoadHistory, IgnoresCellsOutsideTheModel) {
  ManualClock clock;
  LoadHistory history(kShape, {100, 0}, clock);
  history.add(std::vector<wire::ExpertTokens>{{2, 0, 5}, {0, 4, 5}, {1, 3, 7}});
  EXPECT_EQ(history.snapshot(), (std::vector<double>{0, 0, 0, 0, 0, 0, 0, 7}));
}

}  // namespace
}  // namespace fulgur::orchestrator
