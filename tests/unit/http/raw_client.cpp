#include "tests/unit/http/raw_client.hpp"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <utility>

namespace fulgur::http::testing {

RawClient::RawClient(std::uint16_t port, int receive_buffer_bytes)
    : fd_(::socket(AF_INET, SOCK_STREAM, 0)) {
  if (receive_buffer_bytes > 0) {
    ::setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &receive_buffer_bytes, sizeof receive_buffer_bytes);
  }
  // A bug must fail the test, not hang it.
  const timeval limit{.tv_sec = 20, .tv_usec = 0};
  ::setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  const int connected = ::connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof address);
  EXPECT_EQ(connected, 0) << "cannot connect to port " << port;
}

RawClient::~RawClient() { close(); }

void RawClient::send(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (n <= 0) return;
    bytes.remove_prefix(static_cast<std::size_t>(n));
  }
}

std::string RawClient::read_some() {
  if (!received_.empty()) return std::exchange(received_, {});
  std::string bytes(64 * 1024, '\0');
  const ssize_t n = ::recv(fd_, bytes.data(), bytes.size(), 0);
  bytes.resize(n > 0 ? static_cast<std::size_t>(n) : 0);
  return bytes;
}

std::string RawClient::read_until(std::string_view mark) {
  std::string all = std::exchange(received_, {});
  for (;;) {
    if (const auto at = all.find(mark); at != std::string::npos) {
      received_ = all.substr(at + mark.size());
      all.resize(at + mark.size());
      return all;
    }
    const std::string more = read_some();
    if (more.empty()) return all;
    all += more;
  }
}

std::string RawClient::read_to_end() {
  std::string all;
  for (std::string more = read_some(); !more.empty(); more = read_some()) all += more;
  return all;
}

std::string RawClient::read_response(bool head) {
  std::string response = read_until("\r\n\r\n");
  const auto at = response.find("Content-Length: ");
  if (head || at == std::string::npos) return response;
  const std::size_t length = std::stoul(response.substr(at + 16));
  std::string body;
  while (body.size() < length) {
    const std::string more = read_some();
    if (more.empty()) break;
    body += more;
  }
  if (body.size() > length) received_ = body.substr(length);
  return response + body.substr(0, length);
}

void RawClient::half_close() { ::shutdown(fd_, SHUT_WR); }

void RawClient::close() {
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
}

}  // namespace fulgur::http::testing
