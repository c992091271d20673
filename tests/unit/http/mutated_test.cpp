// Bytes of strangers at the HTTP server and at the client that posts reports: requests and answers
// damaged from a seed. Every request gets an answer that the server means to give, or none when it
// is empty; the server goes on; the client ends with an answer or an error.
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <charconv>
#include <memory>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "common/http/client.hpp"
#include "common/http/server.hpp"
#include "tests/unit/http/mutate.hpp"
#include "tests/unit/http/raw_client.hpp"

namespace fulgur::http {
namespace {

using testing::mutate;
using testing::RawClient;

constexpr std::uint64_t kSeed = 20261;
constexpr std::size_t kBodyBytesMax = 4096;
constexpr std::size_t kHeaderBytesMax = 1024;

constexpr std::array<std::string_view, 24> kWords = {
    "\r\n", "\r\n\r\n", "\n", "\r", " ", ":", ",", "\t", std::string_view("\0", 1), "%00", "%zz",
    "?", "//", "*", "HTTP/1.1", "HTTP/1.0", "Content-Length: 99999999999999999999\r\n",
    "Content-Length: -1\r\n", "Content-Length: 5000\r\n", "Transfer-Encoding: chunked\r\n",
    "Connection: close\r\n", "Expect: 100-continue\r\n", "ffffffffffffffff\r\n",
    "HEAD / HTTP/1.1\r\n\r\n"};

const std::array<std::string, 7> kRequests = {
    "GET /hello?a=b&c=%20d HTTP/1.1\r\nHost: x\r\nAccept: */*\r\n\r\n",
    "POST /echo HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    "Content-Length: 14\r\n\r\n{\"prompt\":\"x\"}",
    "POST /echo HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    "3\r\nabc\r\n2;e=f\r\nde\r\n0\r\nTrailer: t\r\n\r\n",
    "POST /echo HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nhi",
    "OPTIONS /echo HTTP/1.1\r\nHost: x\r\n\r\n",
    "GET /hello HTTP/1.1\r\nX: " + std::string(kHeaderBytesMax - 32, 'x') + "\r\n\r\n",
    "HEAD /hello HTTP/1.0\r\nConnection: keep-alive\r\n\r\nDELETE /echo HTTP/1.1\r\n\r\n"};

/// Status of the first answer in `bytes`, but for 100; 0 when there is none.
int status_of(std::string_view bytes) {
  constexpr std::string_view go_on = "HTTP/1.1 100 Continue\r\n\r\n";
  while (bytes.starts_with(go_on)) bytes.remove_prefix(go_on.size());
  int status = 0;
  if (bytes.size() > 12 && (bytes.starts_with("HTTP/1.1 ") || bytes.starts_with("HTTP/1.0 ")))
    std::from_chars(bytes.data() + 9, bytes.data() + 12, status);
  return status;
}

class MutatedHttp : public ::testing::Test {
 protected:
  void SetUp() override {
    auto server = Server::listen(
        "127.0.0.1", 0, {.header_bytes_max = kHeaderBytesMax, .body_bytes_max = kBodyBytesMax});
    ASSERT_TRUE(server.is_ok()) << server.status().to_string();
    server_ = std::move(*server);
    server_->handle("GET", "/hello", [](const Request& request, const Responder& responder) {
      responder.respond(200, "text/plain", "hello " + request.query);
    });
    server_->handle("POST", "/echo", [](const Request& request, const Responder& responder) {
      EXPECT_LE(request.body.size(), kBodyBytesMax);
      responder.respond(200, "text/plain", request.body);
    });
    server_->start();
  }

  std::string exchange(std::string_view bytes) {
    RawClient client(server_->port());
    client.send(bytes);
    client.half_close();
    return client.read_to_end();
  }

  std::unique_ptr<Server> server_;
};

TEST_F(MutatedHttp, RequestsAreAnsweredOrRefused) {
  const std::set<int> meant = {200, 204, 400, 404, 405, 413, 431};
  std::set<int> seen;
  Rng rng(kSeed);
  for (int round = 0; round < 4000; ++round) {
    const std::string request = mutate(kRequests[rng.below(kRequests.size())], kWords, rng);
    const std::string answer = exchange(request);
    const int status = status_of(answer);
    seen.insert(status);
    ASSERT_TRUE(meant.contains(status) || (request.empty() && answer.empty()))
        << "seed " << kSeed << ", round " << round << ": " << request << "\nanswered: " << answer;
  }
  for (const int status : meant) EXPECT_TRUE(seen.contains(status)) << "never met: " << status;
  EXPECT_TRUE(exchange("GET /hello?a HTTP/1.1\r\n\r\n").ends_with("\r\n\r\nhello a"));
}

TEST_F(MutatedHttp, ARequestCutAnywhereIsRefused) {
  for (const std::string& request : kRequests) {
    const std::size_t first_end =
        request.starts_with("HEAD") ? request.find("\r\n\r\n") + 4 : request.size();
    for (std::size_t size = 1; size < first_end; ++size)
      ASSERT_EQ(status_of(exchange(request.substr(0, size))), 400) << request.substr(0, size);
  }
}

/// Answers every connection with the next text, once the request has come.
class Answering {
 public:
  explicit Answering(std::vector<std::string> answers)
      : listener_(::socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    EXPECT_EQ(::bind(listener_, reinterpret_cast<sockaddr*>(&address), size), 0);
    EXPECT_EQ(::listen(listener_, 16), 0);
    ::getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size);
    port_ = ntohs(address.sin_port);
    thread_ = std::thread([this, answers = std::move(answers)] { serve(answers); });
  }
  ~Answering() {
    ::shutdown(listener_, SHUT_RDWR);  // ends a waiting accept
    thread_.join();
    ::close(listener_);
  }
  std::uint16_t port() const { return port_; }

 private:
  void serve(const std::vector<std::string>& answers) const {
    for (const std::string& answer : answers) {
      const int fd = ::accept(listener_, nullptr, nullptr);
      if (fd < 0) return;
      std::string request;
      for (char bytes[4096]; !request.ends_with("{}");) {
        const ssize_t n = ::recv(fd, bytes, sizeof bytes, 0);
        if (n <= 0) break;
        request.append(bytes, static_cast<std::size_t>(n));
      }
      [[maybe_unused]] const auto sent = ::send(fd, answer.data(), answer.size(), MSG_NOSIGNAL);
      ::close(fd);
    }
  }

  int listener_;
  std::uint16_t port_ = 0;
  std::thread thread_;
};

TEST(MutatedAnswers, EndInAnAnswerOrAnError) {
  const std::array<std::string, 3> good = {
      "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
      "HTTP/1.1 503 Service Unavailable\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
      "HTTP/1.0 404 Not Found\r\n\r\nto the end"};
  std::vector<std::string> answers(good.begin(), good.end());
  Rng rng(kSeed);
  while (answers.size() < 2000)
    answers.push_back(mutate(good[rng.below(good.size())], kWords, rng));
  const Answering server(answers);
  std::size_t taken = 0;
  for (std::size_t i = 0; i < answers.size(); ++i) {
    const auto answer =
        post_json({"127.0.0.1", server.port(), ""}, "/", "{}", [] { return Patience::wait; });
    if (i < good.size()) {
      ASSERT_TRUE(answer.is_ok()) << answers[i] << ": " << answer.status().message();
    }
    taken += answer.is_ok();
    if (answer.is_ok()) continue;
    ASSERT_EQ(answer.status().code(), Code::unavailable)
        << "seed " << kSeed << ", answer " << i << ": " << answers[i];
  }
  EXPECT_GT(taken, answers.size() / 20);
  EXPECT_LT(taken, answers.size());
}

}  // namespace
}  // namespace fulgur::http
