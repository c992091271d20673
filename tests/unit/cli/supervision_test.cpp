// Supervision with real child processes (shell scripts): restarts, failures at start, a clean end.
#include "cli/supervision.hpp"

#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

namespace fulgur::cli {
namespace {

namespace fs = std::filesystem;

class SupervisionTest : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/fulgur-test-XXXXXX";
    base_ = mkdtemp(name);
    setenv("XDG_RUNTIME_DIR", base_.c_str(), 1);
    dir_.emplace(std::move(*RunDir::claim(8000)));
  }
  void TearDown() override { fs::remove_all(base_); }

  void script(const std::string& name, const std::string& body) {
    std::ofstream(base_ + "/" + name) << "#!/bin/sh\n" << body << "\n";
    fs::permissions(base_ + "/" + name, fs::perms::owner_all);
  }
  std::unique_ptr<Supervision> supervise(const std::vector<std::string>& programs) {
    std::vector<ServicePlan> plans;
    for (const auto& program : programs) plans.push_back({"expert", program, program, "", {}});
    return std::make_unique<Supervision>(base_, *dir_, MeshRecord{}, std::move(plans), clock_);
  }
  pid_t pid_of(const std::string& name) {
    const auto record = dir_->read();
    for (const auto& service : record->services)
      if (service.name == name) return service.pid;
    return 0;
  }

  RealClock clock_;
  std::string base_;
  std::optional<RunDir> dir_;
};

/// Blocks until the child has died, without reaping it.
void wait_dead(pid_t pid) {
  siginfo_t info{};
  ASSERT_EQ(waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WNOWAIT), 0);
}

TEST_F(SupervisionTest, StartsTheKilledAgain) {
  script("forever", "exec sleep 1000");
  auto mesh = supervise({"forever"});
  ASSERT_TRUE(mesh->start_all().is_ok());
  const pid_t first = pid_of("forever");
  kill(first, SIGKILL);
  wait_dead(first);
  ASSERT_TRUE(mesh->poll().is_ok());
  const pid_t second = pid_of("forever");
  EXPECT_NE(second, first);
  EXPECT_EQ(kill(second, 0), 0);
  mesh->shut_down(10 * kSecond);
  EXPECT_NE(kill(second, 0), 0);
}

TEST_F(SupervisionTest, WhoDrainedIsLetGo) {
  script("leaves", "exec sleep 1000");
  script("stays", "exec sleep 1000");
  auto mesh = supervise({"leaves", "stays"});
  ASSERT_TRUE(mesh->start_all().is_ok());
  mesh->mesh_is_ready();
  script("leaves-well", "exit 0");
  ASSERT_TRUE(mesh->add({"expert", "leaves-well", "leaves-well", "", {}}).is_ok());
  EXPECT_EQ(mesh->count("expert"), 3U);
  wait_dead(pid_of("leaves-well"));
  ASSERT_TRUE(mesh->poll().is_ok());
  EXPECT_FALSE(mesh->runs("leaves-well"));
  EXPECT_TRUE(mesh->runs("stays"));
  EXPECT_EQ(dir_->read()->services.size(), 2U);
  // A crash is no drain.
  kill(pid_of("leaves"), SIGKILL);
  wait_dead(pid_of("leaves"));
  ASSERT_TRUE(mesh->poll().is_ok());
  EXPECT_TRUE(mesh->runs("leaves"));
  mesh->shut_down(10 * kSecond);
}

TEST_F(SupervisionTest, AServiceThatCannotStartIsQuoted) {
  script("broken", "echo 'fulgur-expert: config.json: no such file' >&2; exit 1");
  auto mesh = supervise({"broken"});
  ASSERT_TRUE(mesh->start_all().is_ok());
  wait_dead(pid_of("broken"));
  EXPECT_EQ(mesh->poll().message(),
            "broken exited with 1: fulgur-expert: config.json: no such file (log: " +
                dir_->log_path("broken") + ")");
}

TEST_F(SupervisionTest, AMissingProgramIsNamed) {
  auto mesh = supervise({"absent"});
  EXPECT_EQ(mesh->start_all().message(), base_ + "/absent is not built");
}

// A build replaces programs while an older mesh runs them.
TEST_F(SupervisionTest, AProgramThatIsAwayForAWhileEndsNobody) {
  script("comes-back", "exec sleep 1000");
  script("stays", "exec sleep 1000");
  auto mesh = supervise({"comes-back", "stays"});
  ASSERT_TRUE(mesh->start_all().is_ok());
  mesh->mesh_is_ready();
  const pid_t first = pid_of("comes-back");
  const pid_t other = pid_of("stays");
  fs::remove(base_ + "/comes-back");
  kill(first, SIGKILL);
  wait_dead(first);
  ASSERT_TRUE(mesh->poll().is_ok());
  ASSERT_TRUE(mesh->poll().is_ok());
  EXPECT_EQ(kill(other, 0), 0);
  script("comes-back", "exec sleep 1000");
  while (pid_of("comes-back") == first) ASSERT_TRUE(mesh->poll().is_ok());
  EXPECT_EQ(kill(pid_of("comes-back"), 0), 0);
  EXPECT_EQ(pid_of("stays"), other);
  // One that was never there is refused, and forgotten.
  EXPECT_EQ(mesh->add({"expert", "absent", "absent", "", {}}).message(),
            base_ + "/absent is not built");
  EXPECT_FALSE(mesh->runs("absent"));
  mesh->shut_down(10 * kSecond);
}

TEST_F(SupervisionTest, WhoIgnoresTheEndIsKilled) {
  script("deaf", "trap '' TERM; echo deaf; while :; do sleep 1000; done");
  auto mesh = supervise({"deaf"});
  ASSERT_TRUE(mesh->start_all().is_ok());
  const pid_t pid = pid_of("deaf");
  mesh->shut_down(0);
  wait_dead(pid);
  mesh.reset();
  EXPECT_NE(kill(pid, 0), 0);
}

TEST(CheckPort, SaysThatAPortIsTaken) {
  EXPECT_TRUE(check_port("127.0.0.1", free_port()).is_ok());
  EXPECT_EQ(check_port("no.such.host.invalid", 1).code(), Code::invalid_argument);
}

}  // namespace
}  // namespace fulgur::cli
