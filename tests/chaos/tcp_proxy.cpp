#include "tests/chaos/tcp_proxy.hpp"

#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <list>
#include <vector>

#include "common/base/assert.hpp"

namespace fulgur::chaos {
namespace {

constexpr int kPoll_ms = 20;
constexpr std::size_t kBuffer = 256 << 10;

sockaddr_in loopback(std::uint16_t port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(port);
  return address;
}

int connect_to(std::uint16_t port) {
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const sockaddr_in address = loopback(port);
  if (connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) return fd;
  close(fd);
  return -1;
}

/// Closes with a reset instead of a polite end: the peer sees the wire break.
void reset(int fd) {
  const linger hard{1, 0};
  setsockopt(fd, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
  close(fd);
}

/// One direction: bytes read and not yet written.
struct Direction {
  std::vector<char> pending;
  std::size_t written = 0;
  bool empty() const { return written == pending.size(); }
};

/// Two sockets, client and server, and what is on its way between them.
struct Pair {
  std::array<int, 2> fds{-1, -1};
  std::array<Direction, 2> from;  ///< from[i]: read from fds[i], for fds[1 - i]
};

/// False when the connection has ended.
bool take_in(Pair& pair, int side) {
  Direction& direction = pair.from[side];
  direction.pending.resize(kBuffer);
  direction.written = 0;
  const ssize_t got = recv(pair.fds[side], direction.pending.data(), kBuffer, MSG_DONTWAIT);
  direction.pending.resize(got > 0 ? static_cast<std::size_t>(got) : 0);
  return got > 0 || (got < 0 && (errno == EAGAIN || errno == EINTR));
}

bool give_out(Pair& pair, int side, std::atomic<std::uint64_t>& forwarded) {
  Direction& direction = pair.from[side];
  const ssize_t sent = send(pair.fds[1 - side], direction.pending.data() + direction.written,
                            direction.pending.size() - direction.written,
                            MSG_DONTWAIT | MSG_NOSIGNAL);
  if (sent > 0) {
    direction.written += static_cast<std::size_t>(sent);
    forwarded += static_cast<std::uint64_t>(sent);
  }
  return sent > 0 || (sent < 0 && (errno == EAGAIN || errno == EINTR));
}

short wanted(const Pair& pair, int side) {
  return static_cast<short>((pair.from[side].empty() ? POLLIN : 0) |
                            (pair.from[1 - side].empty() ? 0 : POLLOUT));
}

bool forward(Pair& pair, int side, short ready, std::atomic<std::uint64_t>& forwarded) {
  bool alive = true;
  if ((ready & (POLLIN | POLLHUP | POLLERR)) != 0 && pair.from[side].empty())
    alive = take_in(pair, side);
  for (int from = 0; alive && from < 2; ++from)
    if (!pair.from[from].empty()) alive = give_out(pair, from, forwarded);
  return alive;
}

}  // namespace

TcpProxy::TcpProxy(std::uint16_t target) : target_(target) {
  listener_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  sockaddr_in address = loopback(0);
  socklen_t size = sizeof address;
  FULGUR_ASSERT(bind(listener_, reinterpret_cast<sockaddr*>(&address), size) == 0, "bind");
  FULGUR_ASSERT(listen(listener_, 64) == 0, "listen");
  getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &size);
  port_ = ntohs(address.sin_port);
  thread_ = std::thread([this] { run(); });
}

TcpProxy::~TcpProxy() {
  ending_ = true;
  thread_.join();
  close(listener_);
}

void TcpProxy::run() {
  std::list<Pair> pairs;
  const auto drop = [](Pair& pair) {
    for (const int fd : pair.fds) reset(fd);
  };
  while (!ending_) {
    const Wire wire = wire_;
    if (wire == Wire::cut) {
      for (Pair& pair : pairs) drop(pair);
      pairs.clear();
    }
    std::vector<pollfd> polled{{listener_, POLLIN, 0}};
    for (const Pair& pair : pairs)
      for (int side = 0; side < 2; ++side)
        polled.push_back({pair.fds[side], wire == Wire::whole ? wanted(pair, side) : short{0}, 0});
    poll(polled.data(), polled.size(), kPoll_ms);
    std::size_t at = 1;
    for (auto pair = pairs.begin(); pair != pairs.end();) {
      bool alive = true;
      for (int side = 0; side < 2; ++side, ++at)
        if (alive && wire == Wire::whole && polled[at].revents != 0)
          alive = forward(*pair, side, polled[at].revents, forwarded_);
      if (!alive) drop(*pair);
      pair = alive ? std::next(pair) : pairs.erase(pair);
    }
    if ((polled[0].revents & POLLIN) == 0) continue;
    Pair fresh;
    fresh.fds[0] = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
    fresh.fds[1] = wire == Wire::cut ? -1 : connect_to(target_);
    if (fresh.fds[0] >= 0 && fresh.fds[1] >= 0) {
      const int on = 1;
      for (const int fd : fresh.fds) setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
      pairs.push_back(std::move(fresh));
    } else {
      for (const int fd : fresh.fds)
        if (fd >= 0) reset(fd);
    }
  }
  for (Pair& pair : pairs) drop(pair);
}

}  // namespace fulgur::chaos
