// Attention shards that are killed, or leave, under streaming load: the clients' streams go on with
// the same tokens and log-probabilities. One that leaves brings its sequences' state to the other.
#include <gtest/gtest.h>
#include <signal.h>

#include <functional>
#include <memory>

#include "common/base/rng.hpp"
#include "tests/integration/api.hpp"
#include "tests/integration/mesh.hpp"

namespace fulgur::integration {
namespace {

constexpr std::size_t kStreams = 16;
constexpr std::uint32_t kTokens = 48;
constexpr std::uint64_t kSeed = 40260;

/// Of different lengths, so that they do not all end at once: at any moment most of them run.
std::vector<nlohmann::json> staggered_requests() {
  auto requests = mixed_requests(kStreams, kTokens);
  for (std::size_t i = 0; i < requests.size(); ++i) requests[i]["max_tokens"] = kTokens + 24 * i;
  return requests;
}

/// A mesh with two shards and what it answers while nothing happens to it. A shard that has drained
/// is not started again: a test that drains one has the mesh to itself.
class Migration : public testing::Test {
 protected:
  void start() {
    mesh_ = std::make_unique<Mesh>(MeshFlags{2, 2, "auto", "bf16"});
    const Status started = mesh_->start();
    ASSERT_TRUE(started.is_ok()) << started.message();
    if (!undisturbed_.empty()) return;
    const auto requests = staggered_requests();
    undisturbed_ = at_once(mesh_->url(), requests, true);
    expect_equal(one_by_one(mesh_->url(), {requests[0], requests[1]}),
                 {undisturbed_.begin(), undisturbed_.begin() + 2});
  }
  void TearDown() override {
    if (mesh_) {
      EXPECT_EQ(mesh_->stop(), 0);
    }
  }

  /// Meddles among streams once the clients have `tokens` tokens; expects equal answers.
  void expect_undisturbed(std::size_t tokens, const std::function<void()>& meddle) {
    under_load(mesh_->url(), staggered_requests(), undisturbed_, tokens, meddle);
  }

  void ask_to_leave(const std::string& shard) {
    const pid_t pid = mesh_->pid_of(shard);
    ASSERT_GT(pid, 0);
    ASSERT_EQ(kill(pid, SIGTERM), 0);
  }
  double migrations_in(const std::string& shard, const std::string& result) {
    return metric(mesh_->admin_of(shard), "fulgur_migrations_in_total",
                  "result=\"" + result + "\"");
  }

  std::unique_ptr<Mesh> mesh_;
  static std::vector<Answer> undisturbed_;
};

std::vector<Answer> Migration::undisturbed_;

TEST_F(Migration, KilledShardsCostNothing) {
  ASSERT_NO_FATAL_FAILURE(start());
  Rng rng(kSeed);
  const int kills = long_mode() ? 24 : 2;
  for (int round = 0; round < kills; ++round) {
    const std::string victim = rng.below(2) == 0 ? "attention-0" : "attention-1";
    const std::size_t moment = 1 + rng.below(kStreams * kTokens / 2);
    SCOPED_TRACE(testing::Message() << "seed " << kSeed << ", round " << round << ": " << victim
                                    << " after " << moment << " tokens");
    expect_undisturbed(moment, [&] { mesh_->kill_service(victim); });
    ASSERT_TRUE(eventually([&] { return mesh_->is_whole(); })) << mesh_->view().dump();
    ASSERT_FALSE(HasFailure());
  }
}

TEST_F(Migration, AShardThatLeavesTakesItsSequencesAlong) {
  Rng rng(kSeed + 1);
  const int rounds = long_mode() ? 12 : 2;
  for (int round = 0; round < rounds; ++round) {
    ASSERT_NO_FATAL_FAILURE(start());
    const std::string leaver = "attention-" + std::to_string(round % 2);
    const std::string other = "attention-" + std::to_string(1 - round % 2);
    const std::size_t moment = kStreams + rng.below(kStreams * kTokens / 2);
    SCOPED_TRACE(testing::Message() << "seed " << kSeed + 1 << ", round " << round);
    const std::string router = mesh_->admin_of("router-0");
    const pid_t pid = mesh_->pid_of(leaver);
    const std::string admin = mesh_->admin_of(leaver);
    expect_undisturbed(moment, [&] {
      // A router that has just started may be linked to the other shard alone.
      EXPECT_TRUE(eventually([&] { return metric(admin, "fulgur_requests_running") > 0; }));
      ask_to_leave(leaver);
      EXPECT_TRUE(eventually([&] { return kill(pid, 0) != 0; })) << "it has left";
    });
    // Copied for /metrics twice a second.
    EXPECT_TRUE(eventually([&] { return migrations_in(other, "restored") > 0; }))
        << "state was brought along, not computed again";
    EXPECT_EQ(migrations_in(other, "malformed"), 0);
    EXPECT_GT(metric(router, "fulgur_router_moves_total"), 0);
    EXPECT_EQ(mesh_->stop(), 0);
    mesh_.reset();
    ASSERT_FALSE(HasFailure());
  }
}

TEST_F(Migration, EitherSideDiesMeanwhile) {
  Rng rng(kSeed + 2);
  const int rounds = long_mode() ? 12 : 2;
  for (int round = 0; round < rounds; ++round) {
    ASSERT_NO_FATAL_FAILURE(start());
    const std::size_t moment = kStreams + rng.below(kStreams * kTokens / 2);
    const std::string victim = round % 2 == 0 ? "attention-1" : "attention-0";
    SCOPED_TRACE(testing::Message() << "seed " << kSeed + 2 << ", round " << round);
    const pid_t pid = mesh_->pid_of(victim);
    expect_undisturbed(moment, [&] {
      ask_to_leave("attention-0");
      usleep(static_cast<useconds_t>(rng.below(30'000)));
      kill(pid, SIGKILL);
    });
    EXPECT_EQ(mesh_->stop(), 0);
    mesh_.reset();
    ASSERT_FALSE(HasFailure());
  }
}

}  // namespace
}  // namespace fulgur::integration
