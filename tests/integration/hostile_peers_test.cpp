// A worker that listens on TCP and hears from strangers: bytes that are no protocol at all, and
// ZeroMQ peers that send garbage. It counts what reached it, and the mesh serves as before.
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <zmq.hpp>

#include "cli/child.hpp"
#include "cli/supervision.hpp"
#include "common/base/rng.hpp"
#include "tests/integration/api.hpp"
#include "tests/integration/mesh.hpp"

namespace fulgur::integration {
namespace {

constexpr std::uint64_t kSeed = 7;

std::string random_bytes(Rng& rng, std::size_t size) {
  std::string bytes(size, '\0');
  for (char& byte : bytes) byte = static_cast<char>(rng.below(256));
  return bytes;
}

void send_raw(std::uint16_t port, const std::string& bytes) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  ASSERT_EQ(connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
  // The listener may close on the first wrong byte: a short or failed send is fine.
  const bool sent = send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL) >= 0;
  EXPECT_TRUE(sent || errno == ECONNRESET || errno == EPIPE);
  close(fd);
}

/// A third worker, outside of what `fulgur up` started, that listens on TCP.
class TcpWorker {
 public:
  explicit TcpWorker(const Mesh& mesh) : port_(cli::free_port()), admin_port_(cli::free_port()) {
    const auto pid =
        cli::spawn(program("fulgur-expert"),
                   {"--name", "expert-tcp", "--listen", "tcp://127.0.0.1:" + std::to_string(port_),
                    "--orchestrator", mesh.dir().socket_endpoint("orchestrator"), "--admin",
                    admin(), "--model", tiny_model()},
                   scratch_path("expert-tcp"));
    EXPECT_TRUE(pid.is_ok()) << pid.status().message();
    pid_ = pid.is_ok() ? *pid : 0;
  }
  ~TcpWorker() {
    if (pid_ == 0) return;
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
  TcpWorker(const TcpWorker&) = delete;
  TcpWorker& operator=(const TcpWorker&) = delete;

  std::uint16_t port() const { return port_; }
  std::string admin() const { return "127.0.0.1:" + std::to_string(admin_port_); }
  bool runs() const { return waitpid(pid_, nullptr, WNOHANG) == 0; }
  double malformed() const { return metric(admin(), "fulgur_malformed_messages_total"); }
  /// SIGTERM; true when it ended with exit code 0.
  bool ends_cleanly() {
    kill(pid_, SIGTERM);
    int wait_status = 0;
    if (!eventually([&] { return waitpid(pid_, &wait_status, WNOHANG) == pid_; })) return false;
    pid_ = 0;
    return WIFEXITED(wait_status) && WEXITSTATUS(wait_status) == 0;
  }

 private:
  std::uint16_t port_;
  std::uint16_t admin_port_;
  pid_t pid_ = 0;
};

TEST(HostilePeers, GarbageIsCountedAndNothingDies) {
  Mesh mesh;
  const Status started = mesh.start();
  ASSERT_TRUE(started.is_ok()) << started.message();
  const auto requests = mixed_requests(8, 16);
  const auto expected = one_by_one(mesh.url(), requests);
  const std::uint64_t epoch = mesh.epoch();
  TcpWorker worker(mesh);
  ASSERT_TRUE(eventually([&] { return mesh.epoch() > epoch && worker.malformed() == 0; }));

  Rng rng(kSeed);
  for (const std::size_t size : {1U, 64U, 4096U, 100'000U})
    send_raw(worker.port(), random_bytes(rng, size));
  zmq::context_t context;
  zmq::socket_t stranger(context, zmq::socket_type::dealer);
  stranger.set(zmq::sockopt::linger, 0);
  stranger.connect("tcp://127.0.0.1:" + std::to_string(worker.port()));
  constexpr int kMessages = 50;
  for (int i = 0; i < kMessages; ++i)
    stranger.send(zmq::buffer(random_bytes(rng, rng.below(2000))), zmq::send_flags::none);

  EXPECT_TRUE(eventually([&] { return worker.malformed() >= kMessages; })) << worker.malformed();
  EXPECT_TRUE(worker.runs());
  expect_equal(at_once(mesh.url(), requests, true), expected);
  EXPECT_TRUE(worker.ends_cleanly());
  expect_equal(at_once(mesh.url(), requests, true), expected);
  EXPECT_EQ(mesh.stop(), 0);
}

}  // namespace
}  // namespace fulgur::integration
