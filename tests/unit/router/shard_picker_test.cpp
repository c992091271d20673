#include "services/router/shard_picker.hpp"

#include <gtest/gtest.h>

#include <numeric>

namespace fulgur::router {
namespace {

/// Two shards, both connected.
ShardPicker two_shards() {
  ShardPicker picker;
  const auto changes = picker.apply({{"a", 1, "inproc://a", true}, {"b", 1, "inproc://b", true}});
  EXPECT_EQ(changes.connect, (std::vector<std::string>{"a", "b"}));
  transport::LinkId link = 10;
  for (const char* name : {"a", "b"}) {
    picker.find(name)->link = link++;
    picker.find(name)->up = true;
  }
  return picker;
}

TEST(ShardPicker, TakesTheLeastLoadedThatAcceptsAndIsUp) {
  ShardPicker picker = two_shards();
  picker.find("a")->running = 3;
  EXPECT_EQ(picker.pick(0, {})->name, "b");
  picker.find("b")->accepting = false;
  EXPECT_EQ(picker.pick(0, {})->name, "a");
  picker.find("a")->up = false;
  EXPECT_EQ(picker.pick(0, {}), nullptr);
  EXPECT_FALSE(picker.ready());
}

TEST(ShardPicker, AvoidsWhatItIsTold) {
  ShardPicker picker = two_shards();
  EXPECT_EQ(picker.pick(0, {"a"})->name, "b");
  EXPECT_EQ(picker.pick(0, {"a", "b"}), nullptr);
}

TEST(ShardPicker, SharesEqualLoadOut) {
  ShardPicker picker = two_shards();
  const std::string first = picker.pick(0, {})->name;
  EXPECT_NE(picker.pick(0, {})->name, first);
}

TEST(ShardPicker, PrefersTheShardThatKnowsThePrefixUnlessItIsBusier) {
  ShardPicker picker = two_shards();
  std::vector<std::uint32_t> prompt(100);
  std::iota(prompt.begin(), prompt.end(), 0U);
  const std::uint64_t key = prefix_key(prompt);
  EXPECT_NE(key, 0U);
  EXPECT_EQ(prefix_key(std::span(prompt).first(10)), 0U);
  Shard* known = picker.pick(key, {});
  const std::string name = known->name;
  known->running = 3;
  EXPECT_EQ(picker.pick(key, {})->name, name);
  known->running = 50;
  EXPECT_NE(picker.pick(key, {})->name, name);
}

TEST(ShardPicker, PlacementsReplaceEachOther) {
  ShardPicker picker = two_shards();
  picker.find("a")->running = 1;
  // "a" leaves while it runs a sequence: kept until that ends. "b" moves to another endpoint.
  const auto changes = picker.apply({{"b", 2, "inproc://b2", true}});
  EXPECT_EQ(changes.connect, (std::vector<std::string>{"b"}));
  EXPECT_EQ(changes.disconnect, (std::vector<transport::LinkId>{11}));
  EXPECT_EQ(picker.pick(0, {}), nullptr);
  EXPECT_TRUE(picker.take_unused().empty());
  picker.find("a")->running = 0;
  EXPECT_EQ(picker.take_unused(), (std::vector<transport::LinkId>{10}));
  EXPECT_EQ(picker.find("a"), nullptr);
}

}  // namespace
}  // namespace fulgur::router
