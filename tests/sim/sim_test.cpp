// The simulation itself: equal seeds give equal runs, its checkers can fail, and seeds that once
// found a bug stay fixed. The campaign of many seeds is fulgur-sim (see CMakeLists.txt).
#include <gtest/gtest.h>

#include "tests/sim/simulation.hpp"

namespace fulgur::sim {
namespace {

TEST(Simulation, OneSeedGivesOneTrace) {
  for (std::uint64_t seed = 1; seed <= 12; ++seed) {
    const Report first = simulate(seed);
    const Report second = simulate(seed);
    EXPECT_EQ(first.trace, second.trace) << "seed " << seed;
    EXPECT_EQ(first.events, second.events) << "seed " << seed;
    EXPECT_EQ(first.duration, second.duration) << "seed " << seed;
    EXPECT_EQ(first.endings, second.endings) << "seed " << seed;
  }
}

TEST(Simulation, SeedsDiffer) { EXPECT_NE(simulate(1).trace, simulate(2).trace); }

TEST(Simulation, ReadingTheTraceDoesNotChangeIt) {
  std::size_t lines = 0;
  const Report shown = simulate(3, [&](const std::string&) { ++lines; });
  EXPECT_EQ(shown.trace, simulate(3).trace);
  EXPECT_GT(lines, 100U);
}

/// A worker that had obeyed a newer orchestrator ignored the older one that asked it to register, which
/// so never learnt that it was superseded.
TEST(Simulation, SeedsThatOnceFailed) {
  for (const std::uint64_t seed : {102461U, 108342U, 108760U}) {
    const Report report = simulate(seed);
    EXPECT_EQ(report.failures, std::vector<std::string>{}) << "seed " << seed;
  }
}

TEST(SimModel, TheYardstickIsNotTrivial) {
  const auto& requests = SimModel::instance().requests();
  std::size_t stopped = 0;
  for (const RequestSpec& spec : requests) {
    ASSERT_EQ(spec.expected.size(), spec.request->n);
    for (const Stream& stream : spec.expected) {
      EXPECT_FALSE(stream.tokens.empty());
      EXPECT_EQ(stream.tokens.size(), stream.logprobs.size());
      stopped += stream.finish_reason == "stop" ? 1 : 0;
    }
  }
  EXPECT_GT(stopped, 0U);
}

}  // namespace
}  // namespace fulgur::sim
