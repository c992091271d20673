// Processes killed with SIGKILL under traffic: no request fails, every token and log-probability is
// that of the undisturbed run, and the mesh is whole again afterwards. The moments are seeded, in
// tokens that the clients have received.
#include <gtest/gtest.h>

#include <memory>

#include "common/base/rng.hpp"
#include "tests/integration/api.hpp"
#include "tests/integration/mesh.hpp"

namespace fulgur::integration {
namespace {

constexpr std::size_t kStreams = 16;
constexpr std::uint32_t kTokens = 48;
constexpr std::uint64_t kSeed = 20260;

class Failures : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    mesh_ = std::make_unique<Mesh>();
    const Status started = mesh_->start();
    ASSERT_TRUE(started.is_ok()) << started.message();
    undisturbed_ = at_once(mesh_->url(), mixed_requests(kStreams, kTokens), true);
    expect_equal(one_by_one(mesh_->url(), mixed_requests(2, kTokens)),
                 {undisturbed_.begin(), undisturbed_.begin() + 2});
  }
  static void TearDownTestSuite() {
    EXPECT_EQ(mesh_->stop(), 0);
    mesh_.reset();
  }

  /// Kills `victim` among streams once the clients have `tokens` tokens.
  static void kill_under_load(const std::string& victim, std::size_t tokens) {
    under_load(mesh_->url(), mixed_requests(kStreams, kTokens), undisturbed_, tokens,
               [&] { mesh_->kill_service(victim); });
  }

  static std::unique_ptr<Mesh> mesh_;
  static std::vector<Answer> undisturbed_;
};

std::unique_ptr<Mesh> Failures::mesh_;
std::vector<Answer> Failures::undisturbed_;

TEST_F(Failures, KilledExpertWorkersCostNothing) {
  Rng rng(kSeed);
  const int kills = long_mode() ? 24 : 3;
  for (int round = 0; round < kills; ++round) {
    const std::string victim = rng.below(2) == 0 ? "expert-0" : "expert-1";
    const std::size_t moment = 1 + rng.below(kStreams * kTokens / 2);
    SCOPED_TRACE(testing::Message() << "seed " << kSeed << ", round " << round << ": " << victim
                                    << " after " << moment << " tokens");
    const std::uint64_t epoch = mesh_->epoch();
    const pid_t pid = mesh_->pid_of(victim);
    kill_under_load(victim, moment);
    ASSERT_TRUE(eventually([&] { return mesh_->is_whole() && mesh_->epoch() > epoch; }))
        << mesh_->view().dump();
    EXPECT_NE(mesh_->pid_of(victim), pid);
    ASSERT_FALSE(HasFailure());
  }
}

TEST_F(Failures, TheOrchestratorIsNotOnThePath) {
  Rng rng(kSeed + 1);
  const int kills = long_mode() ? 8 : 1;
  for (int round = 0; round < kills; ++round) {
    const std::size_t moment = 1 + rng.below(kStreams * kTokens / 2);
    SCOPED_TRACE(testing::Message() << "seed " << kSeed + 1 << ", round " << round);
    const auto before = mesh_->view();
    ASSERT_TRUE(before.is_object());
    kill_under_load("orchestrator", moment);
    ASSERT_TRUE(eventually([&] { return mesh_->is_whole(); })) << mesh_->view().dump();
    const auto after = mesh_->view();
    EXPECT_GT(after["generation"], before["generation"]);
    EXPECT_GT(after["epoch"], before["epoch"]);
    EXPECT_EQ(after["replicas"], before["replicas"]);
    for (const auto& service : after["services"])
      EXPECT_EQ(service["replicas"], service["kind"] == "expert" ? 8 * 16 : 0) << service.dump();
    ASSERT_FALSE(HasFailure());
  }
}

TEST_F(Failures, AWorkerDiesWhileTheOrchestratorIsAway) {
  const std::uint64_t epoch = mesh_->epoch();
  mesh_->kill_service("orchestrator");
  kill_under_load("expert-1", 100);
  ASSERT_TRUE(eventually([&] { return mesh_->is_whole() && mesh_->epoch() > epoch; }))
      << mesh_->view().dump();
}

// Activations that travel as float32, to a worker that dies among them.
TEST(FailuresF32, AKilledExpertWorkerCostsNothing) {
  Mesh mesh({.activations = "f32"});
  const Status started = mesh.start();
  ASSERT_TRUE(started.is_ok()) << started.message();
  const auto requests = mixed_requests(kStreams, kTokens);
  const auto undisturbed = at_once(mesh.url(), requests, true);
  expect_equal(one_by_one(mesh.url(), {requests[0]}), {undisturbed[0]});
  const std::uint64_t epoch = mesh.epoch();
  const pid_t pid = mesh.pid_of("expert-1");
  under_load(mesh.url(), requests, undisturbed, kStreams * kTokens / 4,
             [&] { mesh.kill_service("expert-1"); });
  ASSERT_TRUE(eventually([&] { return mesh.is_whole() && mesh.epoch() > epoch; }))
      << mesh.view().dump();
  EXPECT_NE(mesh.pid_of("expert-1"), pid);
  expect_equal(at_once(mesh.url(), requests, true), undisturbed);
  EXPECT_EQ(mesh.stop(), 0);
}

}  // namespace
}  // namespace fulgur::integration
