// What several shards say about a worker, as one view.
#include "services/orchestrator/worker_view.hpp"

#include <gtest/gtest.h>

namespace fulgur::orchestrator {
namespace {

using Names = std::vector<std::string>;

wire::WorkerSeen seen(const std::string& name, float speed, bool slow = false,
                      bool reachable = true) {
  return {name, 1, speed, slow, reachable};
}

TEST(WorkerView, AnUnknownWorkerIsAnOrdinaryOne) {
  const auto summary = WorkerView().summary("expert-0", 1);
  EXPECT_EQ(summary.speed, 1);
  EXPECT_FALSE(summary.slow);
  EXPECT_TRUE(summary.unreachable_by.empty());
}

TEST(WorkerView, TheMedianOfShardsCounts) {
  WorkerView view;
  view.observe("attention-0", {seen("expert-0", 0.1F, true), seen("expert-1", 1)});
  view.observe("attention-1", {seen("expert-0", 0.5F)});
  view.observe("attention-2", {seen("expert-0", 1)});
  EXPECT_FLOAT_EQ(static_cast<float>(view.summary("expert-0", 1).speed), 0.5F);
  EXPECT_FALSE(view.summary("expert-0", 1).slow) << "one of three";
  view.observe("attention-1", {seen("expert-0", 0.2F, true)});
  EXPECT_TRUE(view.summary("expert-0", 1).slow);
  EXPECT_FALSE(view.summary("expert-0", 2).slow) << "a new process is not what the old one was";
  view.forget_shard("attention-1");
  view.observe("attention-0", {});
  EXPECT_FALSE(view.summary("expert-0", 1).slow);
}

TEST(WorkerView, ACutIsNamedByWhoHasIt) {
  WorkerView view;
  view.observe("attention-0", {seen("expert-0", 0, false, false)});
  view.observe("attention-1", {seen("expert-0", 1)});
  EXPECT_EQ(view.summary("expert-0", 1).unreachable_by, Names{"attention-0"});
  EXPECT_EQ(view.summary("expert-0", 1).speed, 1);
}

}  // namespace
}  // namespace fulgur::orchestrator
