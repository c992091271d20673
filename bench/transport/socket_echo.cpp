// A plain AF_UNIX stream: what the kernel alone costs. An 16-byte header, then the payload.
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cstring>

#include "bench/transport/echo.hpp"
#include "common/base/memory.hpp"

namespace fulgur::bench {
namespace {

struct Header {
  std::uint64_t mode;
  std::uint64_t bytes;
};

sockaddr_un address_of(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, path.c_str(), sizeof(address.sun_path) - 1);
  return address;
}

void read_all(int fd, void* target, std::size_t bytes) {
  for (auto* at = static_cast<char*>(target); bytes > 0;) {
    const ssize_t got = read(fd, at, bytes);
    FULGUR_ASSERT(got > 0, "the peer closed the socket");
    at += got;
    bytes -= static_cast<std::size_t>(got);
  }
}

void write_message(int fd, Mode mode, const void* data, std::size_t bytes) {
  Header header{static_cast<std::uint64_t>(mode), bytes};
  std::array<iovec, 2> parts = {{{&header, sizeof(header)}, {const_cast<void*>(data), bytes}}};
  std::size_t first = 0;
  while (first < parts.size()) {
    ssize_t wrote = writev(fd, &parts[first], static_cast<int>(parts.size() - first));
    FULGUR_ASSERT(wrote >= 0, "the peer closed the socket");
    while (first < parts.size() && wrote >= static_cast<ssize_t>(parts[first].iov_len)) {
      wrote -= static_cast<ssize_t>(parts[first++].iov_len);
    }
    if (first == parts.size()) break;
    parts[first].iov_base = static_cast<char*>(parts[first].iov_base) + wrote;
    parts[first].iov_len -= static_cast<std::size_t>(wrote);
  }
}

class Client final : public EchoClient {
 public:
  explicit Client(const std::string& path) : fd_(socket(AF_UNIX, SOCK_STREAM, 0)) {
    const sockaddr_un address = address_of(path);
    const int rc = connect(fd_, reinterpret_cast<const sockaddr*>(&address), sizeof(address));
    FULGUR_ASSERT(rc == 0, "cannot connect to " + path);
  }
  ~Client() override { close(fd_); }

  void round_trip(std::size_t bytes) override {
    write_message(fd_, Mode::echo, buffer_.reserve(bytes), bytes);
    read_answer();
  }

  void one_way(std::size_t bytes, std::size_t count) override {
    for (std::size_t i = 1; i <= count; ++i) {
      write_message(fd_, i < count ? Mode::sink : Mode::last, buffer_.reserve(bytes), bytes);
    }
    read_answer();
  }

 private:
  void read_answer() {
    Header header{};
    read_all(fd_, &header, sizeof(header));
    read_all(fd_, buffer_.reserve(header.bytes), header.bytes);
  }

  int fd_;
  AlignedBuffer<char> buffer_;
};

void serve(const std::string& path, const std::function<void(const std::string&)>& ready) {
  const int listener = socket(AF_UNIX, SOCK_STREAM, 0);
  const sockaddr_un address = address_of(path);
  unlink(path.c_str());
  const int rc = bind(listener, reinterpret_cast<const sockaddr*>(&address), sizeof(address));
  FULGUR_ASSERT(rc == 0 && listen(listener, 1) == 0, "cannot listen on " + path);
  ready(path);
  const int fd = accept(listener, nullptr, nullptr);
  unlink(path.c_str());
  AlignedBuffer<char> buffer;
  for (;;) {
    Header header{};
    read_all(fd, &header, sizeof(header));
    char* data = buffer.reserve(header.bytes);
    read_all(fd, data, header.bytes);
    const Mode mode{static_cast<std::uint32_t>(header.mode)};
    if (mode != Mode::sink) write_message(fd, mode, data, mode == Mode::echo ? header.bytes : 8);
  }
}

}  // namespace

Contestant unix_socket_contestant(const std::string& path) {
  Contestant contestant;
  contestant.name = "af-unix";
  contestant.serve = [path](const auto& ready) { serve(path, ready); };
  contestant.connect = [](const std::string& address) { return std::make_unique<Client>(address); };
  return contestant;
}

}  // namespace fulgur::bench
