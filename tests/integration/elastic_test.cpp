// The expert pool grows and shrinks while streams run: a worker started by hand, scale, drain and
// SIGTERM, with the tokens of an undisturbed run; and what is refused, with nothing disturbed.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstdio>
#include <functional>
#include <memory>

#include "cli/child.hpp"
#include "cli/http_client.hpp"
#include "tests/integration/api.hpp"
#include "tests/integration/mesh.hpp"

namespace fulgur::integration {
namespace {

using nlohmann::json;

constexpr std::size_t kStreams = 8;
constexpr std::uint32_t kTokens = 96;

class Elastic : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    mesh_ = std::make_unique<Mesh>();
    const Status started = mesh_->start();
    ASSERT_TRUE(started.is_ok()) << started.message();
    undisturbed_ = at_once(mesh_->url(), mixed_requests(kStreams, kTokens), true);
  }
  static void TearDownTestSuite() {
    EXPECT_EQ(mesh_->stop(), 0);
    mesh_.reset();
  }

  static Finished fulgur(std::vector<std::string> arguments) {
    arguments.insert(arguments.end(), {"--port", std::to_string(mesh_->port())});
    return run_program(program("fulgur"), arguments);
  }
  static void expect_refused(const std::vector<std::string>& arguments, const std::string& why) {
    const Finished refused = fulgur(arguments);
    EXPECT_EQ(refused.exit_code, 1) << refused.output;
    EXPECT_EQ(std::count(refused.output.begin(), refused.output.end(), '\n'), 1) << refused.output;
    EXPECT_NE(refused.output.find(why), std::string::npos) << refused.output;
  }
  /// Runs `act` among streams; all tokens must be as ever.
  static void under_traffic(const std::function<void()>& act) {
    under_load(mesh_->url(), mixed_requests(kStreams, kTokens), undisturbed_,
               kStreams * kTokens / 4, act);
  }
  static bool has(const std::string& name) { return !mesh_->admin_of(name).empty(); }
  static json member(const std::string& name) {
    const json view = mesh_->view();
    if (!view.is_object()) return nullptr;
    for (const json& service : view["services"])
      if (service["name"] == name) return service;
    return nullptr;
  }
  static int http(const std::string& path, const std::string& body) {
    cli::HttpClient client("http://" + mesh_->dir().read()->orchestrator_admin);
    const auto answer = client.post(path, body, 10 * kSecond);
    return answer.is_ok() ? answer->status : -1;
  }

  static std::unique_ptr<Mesh> mesh_;
  static std::vector<Answer> undisturbed_;
};

std::unique_ptr<Mesh> Elastic::mesh_;
std::vector<Answer> Elastic::undisturbed_;

TEST_F(Elastic, AWorkerStartedByHandServesAndLeavesOnSigterm) {
  const RealClock clock;
  const auto dir = mesh_->dir();
  const Nanoseconds started = clock.now();
  const auto pid =
      cli::spawn(program("fulgur-expert"),
                 {"--name", "by-hand", "--listen", dir.socket_endpoint("by-hand"), "--orchestrator",
                  dir.socket_endpoint("orchestrator"), "--model", tiny_model()},
                 scratch_path("by-hand"));
  ASSERT_TRUE(pid.is_ok());
  under_traffic([&] {
    EXPECT_TRUE(eventually([&] { return has("by-hand"); }));
    const std::string admin = mesh_->admin_of("by-hand");
    EXPECT_TRUE(eventually([&] { return metric(admin, "fulgur_expert_dispatches_total") > 0; }));
    std::printf("serves %d ms after its start\n",
                static_cast<int>((clock.now() - started) / kMillisecond));
    kill(*pid, SIGTERM);
  });
  int wait_status = 0;
  ASSERT_TRUE(eventually([&] { return waitpid(*pid, &wait_status, WNOHANG) == *pid; }));
  EXPECT_TRUE(WIFEXITED(wait_status) && WEXITSTATUS(wait_status) == 0);
  EXPECT_TRUE(eventually([&] { return !has("by-hand") && mesh_->is_whole(); }));
}

TEST_F(Elastic, ScalesOutAndInUnderTraffic) {
  under_traffic([&] {
    const Finished out = fulgur({"scale", "experts", "3"});
    EXPECT_EQ(out.exit_code, 0) << out.output;
    EXPECT_GT(member("expert-2")["replicas"], 0);
  });
  const pid_t drained = mesh_->pid_of("expert-2");
  under_traffic([&] {
    const Finished in = fulgur({"scale", "experts", "2"});
    EXPECT_EQ(in.exit_code, 0) << in.output;
  });
  EXPECT_TRUE(eventually([&] { return mesh_->pid_of("expert-2") == 0; }));
  EXPECT_NE(kill(drained, 0), 0) << "it is gone and was not started again";
  EXPECT_TRUE(mesh_->is_whole());
  EXPECT_EQ(metric(mesh_->admin_of("orchestrator"), "fulgur_members_lost_total"), 0);
  EXPECT_EQ(metric(mesh_->admin_of("attention-0"), "fulgur_workers_lost_total"), 0);
}

TEST_F(Elastic, DrainsOneByNameAndStartsItAgain) {
  under_traffic([&] {
    const Finished drained = fulgur({"drain", "expert-0"});
    EXPECT_EQ(drained.exit_code, 0) << drained.output;
    EXPECT_FALSE(has("expert-0"));
  });
  expect_refused({"drain", "expert-1"}, "without expert-1 no worker has capacity for expert 0");
  const Finished again = fulgur({"scale", "experts", "2"});
  EXPECT_EQ(again.exit_code, 0) << again.output;
  EXPECT_TRUE(eventually([&] { return mesh_->is_whole(); }));
}

TEST_F(Elastic, RefusesWhatCannotBe) {
  const std::uint64_t epoch = mesh_->epoch();
  expect_refused({"drain", "expert-9"}, "no member of the mesh is called expert-9");
  expect_refused({"undrain", "expert-9"}, "no member of the mesh is called expert-9");
  expect_refused({"drain", "router-0"}, "router-0 is a router");
  expect_refused({"drain", "attention-0"}, "no other attention shard would accept requests");
  expect_refused({"scale", "experts", "33"}, "--max-experts is 32");
  expect_refused({"scale", "attention", "9"}, "--max-attention is 8");
  EXPECT_EQ(http("/admin/drain", R"({"name":"expert-9"})"), 404);
  EXPECT_EQ(http("/admin/drain", R"({"names":["expert-0","expert-1"]})"), 409);
  EXPECT_EQ(http("/admin/drain", "{"), 400);
  EXPECT_EQ(http("/admin/undrain", R"({"name":"expert-1"})"), 200) << "it does not drain";
  EXPECT_EQ(mesh_->epoch(), epoch) << "nothing has changed";
  EXPECT_TRUE(mesh_->is_whole());
  expect_equal(at_once(mesh_->url(), mixed_requests(kStreams, kTokens), true), undisturbed_);
}

TEST_F(Elastic, AWorkerOfAnotherModelIsTurnedAway) {
  const std::string other = scratch_path("other");
  const Finished made =
      run_program(program("fulgur"), {"synth", "--preset", "odd", "--out", other, "--seed", "3"});
  ASSERT_EQ(made.exit_code, 0) << made.output;
  const Finished refused = run_program(
      program("fulgur-expert"),
      {"--name", "stranger", "--listen", mesh_->dir().socket_endpoint("stranger"), "--orchestrator",
       mesh_->dir().socket_endpoint("orchestrator"), "--model", other, "--log-level", "error"});
  EXPECT_EQ(refused.exit_code, 1);
  EXPECT_NE(refused.output.find("stranger serves model"), std::string::npos) << refused.output;
  EXPECT_TRUE(mesh_->is_whole());
}

}  // namespace
}  // namespace fulgur::integration
