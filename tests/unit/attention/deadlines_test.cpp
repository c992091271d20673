// Deadlines at the shard: whoever is late ends with deadline_exceeded and frees what it held, wherever
// it was (on its way, in the queue, running, waiting for experts), and nobody else's bits change.
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/unit/attention/exact_requests.hpp"

namespace fulgur {
namespace {

constexpr Dtype kActivations = Dtype::bf16;
constexpr Nanoseconds kMinute = 60 * kSecond;

class Deadlines : public testing::Test {
 protected:
  std::unique_ptr<mesh::LocalMesh> start(mesh::LocalMeshOptions options) {
    return mesh::LocalMesh::start(tiny(), backend(kActivations), clock_, std::move(options)).value();
  }
  std::int64_t in_a_minute() const { return clock_.wall_now() + kMinute; }

  /// Ended for being late, with nothing but the first tokens of what it would have given.
  static void expect_late(const mesh::Generation& got, std::size_t at) {
    EXPECT_EQ(got.end.reason, wire::FinishReason::error);
    EXPECT_EQ(got.end.code, Code::deadline_exceeded) << got.end.message;
    const auto& whole = yardstick(kActivations)[at].tokens;
    ASSERT_LT(got.tokens.size(), whole.size());
    EXPECT_TRUE(std::equal(got.tokens.begin(), got.tokens.end(), whole.begin()));
  }
  static void expect_nothing_held(mesh::LocalMesh& mesh) {
    EXPECT_TRUE(mesh.shard(0).engine->idle());
    EXPECT_EQ(mesh.shard(0).engine->scheduler().running(), 0U);
  }

  ManualClock clock_;
};

TEST_F(Deadlines, WhoComesTooLateIsNotBegun) {
  auto mesh = start(plain(kActivations));
  const auto late = mesh->submit(requests()[0], 0, clock_.wall_now());
  ASSERT_TRUE(mesh->run());
  expect_late(mesh->generation(late), 0);
  EXPECT_TRUE(mesh->generation(late).tokens.empty());
  EXPECT_EQ(mesh->shard(0).engine->stats().micro_batches_total, 0U);
  expect_nothing_held(*mesh);
}

TEST_F(Deadlines, WhoRunsEndsAndItsCompanionsDoNot) {
  auto mesh = start(plain(kActivations));
  const auto all = requests();
  const auto late = mesh->submit(all[4], 0, in_a_minute());
  const auto unbounded = mesh->submit(all[1]);
  const auto in_time = mesh->submit(all[2], 0, in_a_minute() + kMinute);
  while (mesh->generation(late).tokens.size() < 3) ASSERT_TRUE(mesh->step());
  clock_.advance(kMinute);
  ASSERT_TRUE(mesh->run());
  expect_late(mesh->generation(late), 4);
  EXPECT_GE(mesh->generation(late).tokens.size(), 3U);
  expect_same(mesh->generation(unbounded), yardstick(kActivations)[1], 1);
  expect_same(mesh->generation(in_time), yardstick(kActivations)[2], 2);
  expect_nothing_held(*mesh);
}

TEST_F(Deadlines, WhoWaitsForASlotEndsThere) {
  auto options = plain(kActivations);
  options.scheduler.slots = 1;
  auto mesh = start(options);
  const auto all = requests();
  const auto first = mesh->submit(all[0]);
  const auto queued = mesh->submit(all[1], 0, in_a_minute());
  while (mesh->generation(first).tokens.empty()) ASSERT_TRUE(mesh->step());
  clock_.advance(kMinute);  // past the shard's tick, too
  while (!mesh->finished(queued)) ASSERT_TRUE(mesh->step());
  EXPECT_FALSE(mesh->finished(first));
  expect_late(mesh->generation(queued), 1);
  EXPECT_TRUE(mesh->generation(queued).tokens.empty());
  ASSERT_TRUE(mesh->run());
  expect_same(mesh->generation(first), yardstick(kActivations)[0], 0);
  expect_nothing_held(*mesh);
}

// Long before the shard would give the experts up: whoever has no deadline, or a later one, shares the
// micro-batch and goes on waiting.
TEST_F(Deadlines, WhoWaitsForExpertsEndsWithTheLatestOfItsMicroBatch) {
  auto options = plain(kActivations);
  options.workers = 1;
  options.dispatch.wait_max = 3600 * kSecond;
  auto mesh = start(options);
  const auto all = requests();
  const auto early = mesh->submit(all[4], 0, in_a_minute());
  const auto later = mesh->submit(all[2], 0, in_a_minute() + kMinute);
  while (mesh->generation(early).tokens.empty() || mesh->generation(later).tokens.empty())
    ASSERT_TRUE(mesh->step());
  mesh->kill_worker(0);
  while (mesh->step()) {
  }
  clock_.advance(kMinute);
  while (mesh->step()) {
  }
  EXPECT_FALSE(mesh->finished(later));
  clock_.advance(kMinute);
  ASSERT_TRUE(mesh->run());
  expect_late(mesh->generation(early), 4);
  expect_late(mesh->generation(later), 2);
  expect_nothing_held(*mesh);
}

}  // namespace
}  // namespace fulgur
