// Which launches become graphs, and for how long: without a GPU, by graphs that count.
#include "kernels/cuda/graph_cache.hpp"

#include <gtest/gtest.h>

#include <stdexcept>
#include <vector>

#include "kernels/cuda/sizes.hpp"

namespace fulgur::kernels::cuda {
namespace {

/// Stands for a device: what ran, and graphs that run what was recorded.
class GraphCacheTest : public ::testing::Test {
 protected:
  class Recorded final : public Graph {
   public:
    Recorded(GraphCacheTest& test, int what) : test_(test), what_(what) { ++test_.alive_; }
    ~Recorded() override { --test_.alive_; }
    bool launch() override {
      if (!test_.launches_succeed_) return false;
      test_.replayed_.push_back(what_);
      return true;
    }
    std::size_t bytes() const override { return 100; }

   private:
    GraphCacheTest& test_;
    int what_;
  };

  GraphCache make(std::size_t graphs_max) {
    return {graphs_max, [this](const GraphCache::Launches& launches) -> std::unique_ptr<Graph> {
              if (!records_succeed_) return nullptr;
              recording_ = true;
              launches();
              recording_ = false;
              return std::make_unique<Recorded>(*this, last_);
            }};
  }
  /// What `what` launches, by a key of its own.
  void run(GraphCache& cache, int what, int times = 1) {
    for (int i = 0; i < times; ++i) {
      cache.run(GraphKey(what), [this, what] {
        last_ = what;
        if (!recording_) plain_.push_back(what);
      });
    }
  }

  bool records_succeed_ = true;
  bool launches_succeed_ = true;
  bool recording_ = false;
  int last_ = 0;
  int alive_ = 0;
  std::vector<int> plain_, replayed_;
};

TEST_F(GraphCacheTest, TheThirdAppearanceIsRecordedAndEachRunsOnce) {
  GraphCache cache = make(4);
  run(cache, 7, 2);
  run(cache, 8, 1);
  EXPECT_EQ(cache.counts().captured, 0U);
  run(cache, 7, 5);
  EXPECT_EQ(plain_, (std::vector<int>{7, 7, 8}));
  EXPECT_EQ(replayed_, (std::vector<int>{7, 7, 7, 7, 7}));
  EXPECT_EQ(cache.counts().captured, 1U);
  EXPECT_EQ(cache.counts().replayed, 5U);
  EXPECT_EQ(cache.counts().bytes, 100U);
}

TEST_F(GraphCacheTest, AFullCacheKeepsWhatIsInUse) {
  GraphCache cache = make(2);
  for (int round = 0; round < 50; ++round) {
    for (int what = 0; what < 6; ++what) run(cache, what);
  }
  EXPECT_EQ(cache.counts().captured, 2U);  // six in turn: no graph is made to be dropped unused
  EXPECT_EQ(cache.counts().dropped, 0U);
  EXPECT_EQ(replayed_.size(), 2 * 48U);
  EXPECT_EQ(plain_.size() + replayed_.size(), 300U);
}

TEST_F(GraphCacheTest, AGraphThatNobodyUsesMakesRoom) {
  GraphCache cache = make(2);
  run(cache, 1, 10);
  run(cache, 2, 10);
  run(cache, 3, 40);
  EXPECT_EQ(cache.counts().captured, 3U);
  EXPECT_EQ(cache.counts().dropped, 1U);
  EXPECT_EQ(alive_, 2);
  plain_.clear();
  run(cache, 2);  // the later one was kept
  EXPECT_TRUE(plain_.empty());
  run(cache, 1);  // the earlier one begins anew
  EXPECT_EQ(plain_, (std::vector<int>{1}));
}

TEST_F(GraphCacheTest, WhatCannotBeRecordedIsLaunchedAndSeldomTriedAgain) {
  GraphCache cache = make(2);
  records_succeed_ = false;
  run(cache, 1, 20);
  EXPECT_EQ(plain_.size(), 20U);
  EXPECT_EQ(cache.counts().refused, 1U);
  records_succeed_ = true;
  run(cache, 1, 20);
  EXPECT_EQ(cache.counts().captured, 1U);  // at the 24th appearance after the failure
  EXPECT_EQ(plain_.size() + replayed_.size(), 40U);
}

TEST_F(GraphCacheTest, AReplayThatIsRefusedMemoryIsLaunchedPlainly) {
  GraphCache cache = make(2);
  run(cache, 1, 5);
  launches_succeed_ = false;
  run(cache, 1);
  EXPECT_EQ(alive_, 0);
  EXPECT_EQ(cache.counts().refused, 1U);
  launches_succeed_ = true;
  run(cache, 1, 30);
  EXPECT_EQ(cache.counts().captured, 2U);
  EXPECT_EQ(plain_.size() + replayed_.size(), 36U);
}

TEST_F(GraphCacheTest, AFailureOfTheLaunchesIsTheCallers) {
  GraphCache cache = make(2);
  const GraphKey key(1);
  for (int i = 0; i < 2; ++i) {
    EXPECT_THROW(cache.run(key, [] { throw std::runtime_error("refused"); }), std::runtime_error);
  }
  run(cache, 1);
  EXPECT_EQ(replayed_, (std::vector<int>{1}));
}

TEST_F(GraphCacheTest, ClearForgetsGraphsAndAppearances) {
  GraphCache cache = make(2);
  run(cache, 1, 5);
  cache.clear();
  EXPECT_EQ(alive_, 0);
  plain_.clear();
  run(cache, 1, 2);
  EXPECT_EQ(plain_.size(), 2U);
}

TEST_F(GraphCacheTest, RemembersABoundedNumberOfKeys) {
  GraphCache cache = make(2);
  run(cache, 1, 2);
  for (int what = 100; what < 200; ++what) run(cache, what);
  run(cache, 1, 2);
  EXPECT_EQ(cache.counts().captured, 0U);  // forgotten in between
}

TEST(GraphKey, IsEveryBitOfEveryValue) {
  const int values[2] = {};
  const auto of = [](auto... all) { return GraphKey(all...); };
  EXPECT_EQ(of(1, 2.0F, &values[0], true), of(1, 2.0F, &values[0], true));
  EXPECT_EQ(of(1, 2.0F, &values[0]).hash(), of(1, 2.0F, &values[0]).hash());
  EXPECT_FALSE(of(1, 2) == of(2, 1));
  EXPECT_FALSE(of(1) == of(1, 0));
  EXPECT_FALSE(of(&values[0]) == of(&values[1]));
  EXPECT_FALSE(of(0.0F) == of(-0.0F));
  EXPECT_FALSE(of(1U) == of(std::size_t{1} << 32U));
  EXPECT_NE(of(1, 2).hash(), of(2, 1).hash());
}

TEST(LengthBucket, HoldsTheLengthAndComesInFewSizes) {
  EXPECT_EQ(length_bucket(1), 512);
  EXPECT_EQ(length_bucket(512), 512);
  EXPECT_EQ(length_bucket(513), 1024);
  EXPECT_EQ(length_bucket(7 * 512 + 1), 8 * 512);
  EXPECT_EQ(length_bucket(8 * 512 + 1), 10 * 512);
  EXPECT_EQ(length_bucket(32 * 512), 32 * 512);
  int last = 0, sizes = 0;
  for (int length = 1; length <= 1 << 20; length += 61) {
    const int bucket = length_bucket(length);
    ASSERT_GE(bucket, length);
    ASSERT_GE(bucket, last);
    ASSERT_EQ(bucket % 512, 0);
    ASSERT_LE(bucket, std::max(length + 511, length + length / 4 + 512)) << length;
    ASSERT_EQ(length_bucket(bucket), bucket);
    sizes += bucket != last ? 1 : 0;
    last = bucket;
  }
  EXPECT_LE(sizes, 40);
}

}  // namespace
}  // namespace fulgur::kernels::cuda
