// The network between the shards and one worker breaks while both stay in touch with everybody else:
// by resets, and by silence. No request may fail or change, nobody may be declared dead, and the
// worker serves again when the wire is whole.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>

#include <memory>

#include "cli/child.hpp"
#include "cli/supervision.hpp"
#include "tests/chaos/open_loop.hpp"
#include "tests/chaos/tcp_proxy.hpp"
#include "tests/integration/mesh.hpp"

namespace fulgur::chaos {
namespace {

using integration::eventually;

constexpr std::size_t kRequests = 24;
constexpr std::uint32_t kTokens = 32;

/// A worker started by hand whose advertised endpoint leads through a proxy.
class FarWorker {
 public:
  explicit FarWorker(const integration::Mesh& mesh)
      : port_(cli::free_port()), proxy_(port_), log_(integration::scratch_path("far")) {
    const auto tcp = [](std::uint16_t port) { return "tcp://127.0.0.1:" + std::to_string(port); };
    pid_ = cli::spawn(integration::program("fulgur-expert"),
                      {"--name", "expert-far", "--listen", tcp(port_), "--advertise",
                       tcp(proxy_.port()), "--orchestrator", mesh.dir().socket_endpoint("orchestrator"),
                       "--model", integration::tiny_model(), "--transport", "zmq"},
                      log_)
               .value();
  }
  ~FarWorker() {
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  TcpProxy& wire() { return proxy_; }

 private:
  std::uint16_t port_;
  TcpProxy proxy_;
  std::string log_;
  pid_t pid_ = 0;
};

/// The orchestrator's entry for a service; null when it has none.
nlohmann::json entry(const integration::Mesh& mesh, const std::string& name) {
  const nlohmann::json view = mesh.view();
  if (view.is_object())
    for (const auto& service : view["services"])
      if (service["name"] == name) return service;
  return nullptr;
}

class Cut : public testing::TestWithParam<TcpProxy::Wire> {};

TEST_P(Cut, BetweenTheShardAndOneWorkerIsRoutedAround) {
  integration::Mesh mesh({.experts = 1});
  ASSERT_TRUE(mesh.start().is_ok());
  const auto requests = integration::mixed_requests(kRequests, kTokens);
  const auto expected = integration::at_once(mesh.url(), requests, true);

  FarWorker far(mesh);
  const auto holds = [&] {
    const auto far_entry = entry(mesh, "expert-far");
    return far_entry.is_object() && far_entry["state"] == "alive" && far_entry["replicas"] > 0 &&
           mesh.view()["phase"] == "idle";
  };
  ASSERT_TRUE(eventually(holds)) << mesh.view().dump();

  OpenLoop load(mesh.url(), requests, expected, {.rate_per_s = 10});
  const auto moved_since = [&](std::uint64_t before) {
    // Some dispatches' worth: a worker behind a proxy is slower than its neighbours and may be only
    // probed, every few seconds.
    return eventually([&] { return far.wire().forwarded_bytes() > before + 20'000; },
                      3 * integration::kPatience);
  };
  ASSERT_TRUE(moved_since(0)) << "the far worker gets no work";
  far.wire().set(GetParam());
  const std::string shard = mesh.admin_of("attention-0");
  const double seen = integration::metric(shard, "fulgur_generated_tokens_total");
  EXPECT_TRUE(eventually([&] {
    return integration::metric(shard, "fulgur_generated_tokens_total") > seen + 1000;
  })) << "traffic does not flow around the cut";
  EXPECT_EQ(entry(mesh, "expert-far")["state"], "alive") << "it is reachable for the orchestrator";
  const std::uint64_t before = far.wire().forwarded_bytes();
  far.wire().set(TcpProxy::Wire::whole);
  EXPECT_TRUE(moved_since(before)) << "the far worker is not used again";
  const LoadReport report = load.finish();
  for (const std::string& failure : report.failures) ADD_FAILURE() << failure;
  EXPECT_GT(report.equal, 0U);
  EXPECT_EQ(mesh.stop(), 0);
}

INSTANTIATE_TEST_SUITE_P(Wires, Cut, testing::Values(TcpProxy::Wire::cut, TcpProxy::Wire::silent),
                         [](const auto& wire) {
                           return wire.param == TcpProxy::Wire::cut ? "Reset" : "Silent";
                         });

}  // namespace
}  // namespace fulgur::chaos
