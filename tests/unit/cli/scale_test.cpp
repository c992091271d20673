// What a pool may grow to, and what scale requests are understood.
#include <gtest/gtest.h>

#include "cli/scale_control.hpp"
#include "cli/scale_room.hpp"

namespace fulgur::cli {
namespace {

constexpr std::uint64_t kGiB = 1ULL << 30;

TEST(ScaleRoom, TheFlagIsTheCeiling) {
  EXPECT_TRUE(check_room({"expert", 2, 4, 4}, {}, 64 * kGiB).is_ok());
  EXPECT_EQ(check_room({"expert", 2, 5, 4}, {}, 64 * kGiB).message(),
            "5 are more than this mesh may have: --max-experts is 4");
  EXPECT_EQ(check_room({"attention", 1, 9, 8}, {}, 64 * kGiB).message(),
            "9 are more than this mesh may have: --max-attention is 8");
}

TEST(ScaleRoom, MemoryIsCountedForWhatIsNew) {
  const PoolCosts costs{8 * kGiB, 2, 3 * kGiB};
  // Of four workers each holds half of all experts.
  EXPECT_TRUE(check_room({"expert", 2, 4, 64}, costs, 9 * kGiB).is_ok());
  EXPECT_EQ(check_room({"expert", 1, 4, 64}, costs, 9 * kGiB).message(),
            "3 more expert processes need about 4144 MiB each, 9216 MiB of memory are available");
  EXPECT_EQ(check_room({"attention", 1, 2, 64}, costs, kGiB).code(), Code::failed_precondition);
  EXPECT_TRUE(check_room({"attention", 2, 1, 64}, costs, 0).is_ok()) << "shrinking needs nothing";
  EXPECT_GT(available_memory(), 0U);
}

TEST(ScaleControl, SaysWhatIsWrongWithARequest) {
  const auto good = parse_scale_request(R"({"kind":"expert","count":3})");
  ASSERT_TRUE(good.is_ok());
  EXPECT_EQ(good->kind, "expert");
  EXPECT_EQ(good->count, 3U);
  for (const char* body : {"", "{}", "[]", R"({"kind":"expert"})", R"({"kind":"router","count":1})",
                           R"({"kind":"expert","count":0})", R"({"kind":"expert","count":-1})",
                           R"({"kind":"expert","count":1.5})", R"({"kind":"expert","count":5000})",
                           R"({"kind":"expert","count":1,"x":2})"})
    EXPECT_EQ(parse_scale_request(body).status().code(), Code::invalid_argument) << body;
}

}  // namespace
}  // namespace fulgur::cli
