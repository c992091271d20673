// A worker that gets a tenth of its processor's time: shards give it little, the orchestrator says
// that it is slow, no request fails or changes, and when it is fast again it is not called slow.
#include <gtest/gtest.h>
#include <signal.h>

#include <atomic>
#include <thread>

#include "tests/chaos/open_loop.hpp"
#include "tests/integration/mesh.hpp"

namespace fulgur::chaos {
namespace {

using integration::eventually;

/// Stops a process for nine milliseconds out of ten while it lives.
class Throttle {
 public:
  explicit Throttle(pid_t pid) : thread_([this, pid] {
    while (!ending_) {
      kill(pid, SIGSTOP);
      usleep(9'000);
      kill(pid, SIGCONT);
      usleep(1'000);
    }
  }) {}
  ~Throttle() {
    ending_ = true;
    thread_.join();
  }

 private:
  std::atomic<bool> ending_{false};
  std::thread thread_;
};

TEST(Slow, AThrottledWorkerIsReportedAndRoutedAround) {
  integration::Mesh mesh({.experts = 3});
  ASSERT_TRUE(mesh.start().is_ok());
  const auto requests = integration::mixed_requests(24, 32);
  const auto expected = integration::at_once(mesh.url(), requests, true);
  const std::string orchestrator = mesh.dir().read()->orchestrator_admin;
  const auto slow_workers = [&] { return integration::metric(orchestrator, "fulgur_workers_slow"); };

  OpenLoop load(mesh.url(), requests, expected, {.rate_per_s = 8});
  {
    const Throttle throttle(mesh.pid_of("expert-1"));
    EXPECT_TRUE(eventually([&] { return slow_workers() == 1; })) << mesh.view().dump();
    EXPECT_TRUE(mesh.is_whole()) << "slow is not dead";
  }
  EXPECT_TRUE(eventually([&] { return slow_workers() == 0; })) << mesh.view().dump();
  const LoadReport report = load.finish();
  for (const std::string& failure : report.failures) ADD_FAILURE() << failure;
  EXPECT_GT(report.equal, 0U);
  EXPECT_EQ(mesh.stop(), 0);
}

}  // namespace
}  // namespace fulgur::chaos
