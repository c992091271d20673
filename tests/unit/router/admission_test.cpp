#include "services/router/admission.hpp"

#include <gtest/gtest.h>

#include <thread>
#include <vector>

namespace fulgur::router {
namespace {

TEST(Admission, TicketsGiveTheirPlacesBack) {
  Admission admission(4);
  auto three = admission.enter(3);
  ASSERT_TRUE(three.has_value());
  EXPECT_FALSE(admission.enter(2).has_value());
  {
    const auto one = admission.enter(1);
    EXPECT_TRUE(one.has_value());
    EXPECT_EQ(admission.taken(), 4U);
  }
  auto moved = std::move(*three);
  three.reset();
  EXPECT_EQ(admission.taken(), 3U);
}

TEST(Admission, MoreThanAllPlacesAreNeverGiven) {
  Admission admission(2);
  EXPECT_FALSE(admission.enter(3).has_value());
  EXPECT_EQ(admission.taken(), 0U);
}

TEST(Admission, ThreadsNeverExceedTheLimit) {
  Admission admission(5);
  std::atomic<bool> exceeded{false};
  std::vector<std::thread> threads;
  for (std::size_t t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 2000; ++i) {
        const auto ticket = admission.enter(1 + t % 3);
        if (admission.taken() > 5) exceeded = true;
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_FALSE(exceeded);
  EXPECT_EQ(admission.taken(), 0U);
}

}  // namespace
}  // namespace fulgur::router
