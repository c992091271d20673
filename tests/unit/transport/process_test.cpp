// Real processes and real signals: a peer that is killed is seen, one that is restarted comes up
// again under the same link, and neither leaves anything behind in /dev/shm.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdlib>
#include <filesystem>

#include "common/transport/make_transport.hpp"
#include "common/transport/shm_segment.hpp"
#include "tests/unit/transport/node.hpp"

namespace fulgur::transport {
namespace {

TransportOptions options_of(const std::string& listen, Carrier carrier) {
  TransportOptions options;
  if (!listen.empty()) options.listen = {listen};
  options.allowed = carrier;
  options.ring_bytes = 1U << 20;
  return options;
}

// A child is this program again, running the disabled test below: forking without exec would copy
// the locks that threads of ZeroMQ hold at that moment.
constexpr const char* kListen = "FULGUR_TEST_LISTEN";
constexpr const char* kIncarnation = "FULGUR_TEST_INCARNATION";
constexpr const char* kCarrier = "FULGUR_TEST_CARRIER";
constexpr const char* kReady = "FULGUR_TEST_READY_FD";

TEST(EchoServer, DISABLED_RunsUntilKilled) {
  if (std::getenv(kListen) == nullptr) GTEST_SKIP() << "only as a child of the other tests";
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  const auto incarnation = std::stoull(std::getenv(kIncarnation));
  const auto carrier = static_cast<Carrier>(std::stoi(std::getenv(kCarrier)));
  auto transport = make_transport({wire::ServiceKind::expert, "child", incarnation},
                                  options_of(std::getenv(kListen), carrier));
  ASSERT_TRUE(transport.is_ok()) << transport.status().to_string();
  Node node(std::move(transport).value());
  node.echo = true;
  const std::string endpoint = node.transport().endpoint();
  const int ready = std::stoi(std::getenv(kReady));
  ASSERT_GT(write(ready, endpoint.data(), endpoint.size()), 0);
  ::close(ready);
  for (;;) {
    if (node.transport().poll(node, 16) == 0) node.transport().doorbell().wait(kSecond);
  }
}

/// A process that echoes every message until it is killed.
class EchoProcess {
 public:
  EchoProcess(const std::string& listen, std::uint64_t incarnation, Carrier carrier) {
    std::array<int, 2> ends{};
    EXPECT_EQ(pipe(ends.data()), 0);
    fcntl(ends[0], F_SETFD, FD_CLOEXEC);
    setenv(kListen, listen.c_str(), 1);
    setenv(kIncarnation, std::to_string(incarnation).c_str(), 1);
    setenv(kCarrier, std::to_string(static_cast<int>(carrier)).c_str(), 1);
    setenv(kReady, std::to_string(ends[1]).c_str(), 1);
    std::string program = "/proc/self/exe";
    std::string filter = "--gtest_filter=EchoServer.*";
    std::string disabled = "--gtest_also_run_disabled_tests";
    std::array<char*, 4> arguments = {program.data(), filter.data(), disabled.data(), nullptr};
    EXPECT_EQ(posix_spawn(&pid_, program.c_str(), nullptr, nullptr, arguments.data(), environ), 0);
    ::close(ends[1]);
    std::array<char, 256> text{};
    EXPECT_GT(read(ends[0], text.data(), text.size() - 1), 0);
    ::close(ends[0]);
    endpoint_ = text.data();
  }
  ~EchoProcess() { kill(); }
  EchoProcess(const EchoProcess&) = delete;
  EchoProcess& operator=(const EchoProcess&) = delete;

  const std::string& endpoint() const { return endpoint_; }
  void kill() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    waitpid(std::exchange(pid_, 0), nullptr, 0);
  }

 private:
  pid_t pid_ = -1;
  std::string endpoint_;
};

struct Way {
  const char* name;
  bool tcp;
  Carrier carrier;
};

class Processes : public testing::TestWithParam<Way> {
 protected:
  ~Processes() override { std::filesystem::remove(path_); }

  std::string listen() const { return GetParam().tcp ? "tcp://127.0.0.1:*" : "ipc://" + path_; }
  std::unique_ptr<Node> parent() const {
    auto transport = make_transport({wire::ServiceKind::attention, "parent", 1},
                                    options_of("", GetParam().carrier));
    return std::make_unique<Node>(std::move(transport).value());
  }

 private:
  const std::string path_ = "/tmp/fulgur-process-test-" + std::to_string(getpid());
};

bool echoes(Node& node, LinkId link, std::size_t bytes) {
  const std::size_t before = node.messages.size();
  const wire::Frames frames = {random_frame(bytes, bytes)};
  EXPECT_TRUE(node.transport().send(link, frames).is_ok());
  return pump({&node}, [&] { return node.messages.size() > before; }) &&
         node.messages.back().second == frames;
}

TEST_P(Processes, AKilledPeerIsSeenAndItsSuccessorComesUp) {
  auto child = std::make_unique<EchoProcess>(listen(), 1, GetParam().carrier);
  const std::string endpoint = child->endpoint();
  const auto node = parent();
  const auto link = node->transport().connect(endpoint, Carrier::automatic);
  ASSERT_TRUE(link.is_ok());
  for (std::uint64_t incarnation = 1; incarnation <= 3; ++incarnation) {
    ASSERT_TRUE(pump({node.get()}, [&] { return node->up.contains(*link); }));
    EXPECT_EQ(node->up[*link].incarnation, incarnation);
    EXPECT_EQ(node->up[*link].carrier, GetParam().carrier);
    for (const std::size_t bytes : {8U, 12'288U, 3U << 20}) {
      ASSERT_TRUE(echoes(*node, *link, bytes)) << bytes;
    }
    child->kill();
    ASSERT_TRUE(pump({node.get()}, [&] { return node->downs.size() == incarnation; }));
    EXPECT_EQ(node->transport().send(*link, {frame_of("x")}).code(), Code::unavailable);
    child = std::make_unique<EchoProcess>(endpoint, incarnation + 1, GetParam().carrier);
  }
}

TEST_P(Processes, APeerKilledInTheMiddleOfAFloodIsSeen) {
  auto child = std::make_unique<EchoProcess>(listen(), 1, GetParam().carrier);
  const auto node = parent();
  const auto link = node->transport().connect(child->endpoint(), Carrier::automatic);
  ASSERT_TRUE(pump({node.get()}, [&] { return node->up.contains(*link); }));
  // The killed process is in the middle of reading and writing large messages.
  const wire::Frames block = {random_frame(1, 2U << 20)};
  for (int i = 0; i < 6; ++i) ASSERT_TRUE(node->transport().send(*link, block).is_ok());
  ASSERT_TRUE(pump({node.get()}, [&] { return !node->messages.empty(); }));
  child->kill();
  ASSERT_TRUE(pump({node.get()}, [&] { return node->downs.size() == 1; }));
  for (const auto& [from, frames] : node->messages) EXPECT_TRUE(frames == block);
}

TEST_P(Processes, NothingIsLeftInSharedMemory) {
  auto child = std::make_unique<EchoProcess>(listen(), 1, GetParam().carrier);
  const auto node = parent();
  const auto link = node->transport().connect(child->endpoint(), Carrier::automatic);
  ASSERT_TRUE(pump({node.get()}, [&] { return node->up.contains(*link); }));
  const std::string ours = "fulgur-" + std::to_string(getpid()) + "-";
  for (const auto& entry : std::filesystem::directory_iterator("/dev/shm")) {
    EXPECT_FALSE(entry.path().filename().string().starts_with(ours)) << entry.path();
  }
}

// Killed between its offer and the peer's answer.
TEST(Segments, WhatAKilledCreatorLeftIsRemovedByTheNext) {
  int ends[2];
  ASSERT_EQ(pipe(ends), 0);
  const pid_t child = fork();
  if (child == 0) {
    const auto segment = ShmSegment::create(64U << 10);
    const std::string name = segment.is_ok() ? (*segment)->name() : "";
    if (write(ends[1], name.data(), name.size()) < 0) _exit(1);
    for (;;) pause();
  }
  char name[128] = {};
  ASSERT_GT(read(ends[0], name, sizeof(name) - 1), 0);
  close(ends[0]);
  close(ends[1]);
  const auto left = [&](const char* end) {
    return std::filesystem::exists(std::string("/dev/shm/") + name + end);
  };
  // One that somebody is about to open stays, also beside others.
  const auto own = ShmSegment::create(64U << 10);
  ASSERT_TRUE(own.is_ok());
  EXPECT_TRUE(left("") && left(".c") && left(".a"));
  kill(child, SIGKILL);
  ASSERT_EQ(waitpid(child, nullptr, 0), child);
  const auto next = ShmSegment::create(64U << 10);
  ASSERT_TRUE(next.is_ok());
  EXPECT_FALSE(left("") || left(".c") || left(".a"));
  EXPECT_TRUE(ShmSegment::open((*own)->name()).is_ok());
}

INSTANTIATE_TEST_SUITE_P(Ways, Processes,
                         testing::Values(Way{"zmq_ipc", false, Carrier::zmq},
                                         Way{"zmq_tcp", true, Carrier::zmq},
                                         Way{"shm", false, Carrier::shm}),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace fulgur::transport
