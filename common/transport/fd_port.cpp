#include "common/transport/fd_port.hpp"

#include <sys/random.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>

namespace fulgur::transport {
namespace {

constexpr int kBacklog = 1024;
constexpr std::string_view kPrefix = "fulgur-gpu-";

struct Address {
  sockaddr_un value{};
  socklen_t length = 0;
};

Result<Address> address_of(const std::string& name) {
  Address address;
  if (!name.starts_with(kPrefix) || name.size() + 1 > sizeof(address.value.sun_path)) {
    return error(Code::invalid_argument, "'{}' is no port", name);
  }
  address.value.sun_family = AF_UNIX;
  std::memcpy(address.value.sun_path + 1, name.data(), name.size());
  address.length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + name.size());
  return address;
}

Status failed(const char* what) {
  return error(Code::unavailable, "{}: {}", what, std::strerror(errno));
}

using Control = std::array<std::byte, CMSG_SPACE(sizeof(int) * FdPort::kMostFds)>;

}  // namespace

UniqueFd::~UniqueFd() {
  if (fd_ >= 0) close(fd_);
}

Result<std::unique_ptr<FdPort>> FdPort::open() {
  UniqueFd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket) return failed("cannot open a local socket");
  std::uint64_t random = 0;
  [[maybe_unused]] const auto got = getrandom(&random, sizeof(random), 0);
  std::string name = fmt::format("{}{}-{:016x}", kPrefix, getpid(), random);
  FULGUR_ASSIGN_OR_RETURN(const Address address, address_of(name));
  if (bind(socket.get(), reinterpret_cast<const sockaddr*>(&address.value), address.length) != 0 ||
      listen(socket.get(), kBacklog) != 0) {
    return failed("cannot listen on a local socket");
  }
  return std::unique_ptr<FdPort>(new FdPort(std::move(socket), std::move(name)));
}

Status FdPort::send(const std::string& name, std::uint64_t tag, std::span<const int> fds) const {
  FULGUR_ASSERT(!fds.empty() && fds.size() <= kMostFds, "too many descriptors for one message");
  FULGUR_ASSIGN_OR_RETURN(const Address address, address_of(name));
  const UniqueFd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket) return failed("cannot open a local socket");
  if (connect(socket.get(), reinterpret_cast<const sockaddr*>(&address.value), address.length) != 0)
    return failed("cannot reach the peer's local socket");
  alignas(cmsghdr) Control control{};
  iovec part{&tag, sizeof(tag)};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = CMSG_SPACE(fds.size_bytes());
  cmsghdr* header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(fds.size_bytes());
  std::memcpy(CMSG_DATA(header), fds.data(), fds.size_bytes());
  if (sendmsg(socket.get(), &message, MSG_NOSIGNAL) == sizeof(tag)) return Status::ok();
  return failed("cannot send a descriptor");
}

Result<std::vector<UniqueFd>> FdPort::take(std::uint64_t tag) {
  receive_all();
  const auto found = kept_.find(tag);
  if (found == kept_.end()) return Status{Code::not_found, "no descriptors came for this link"};
  std::vector<UniqueFd> fds = std::move(found->second);
  kept_.erase(found);
  return fds;
}

void FdPort::receive_all() {
  for (;;) {
    const UniqueFd connection(
        accept4(socket_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!connection) {
      if (errno == EINTR || errno == ECONNABORTED) continue;
      return;
    }
    receive(connection);
  }
}

/// Senders write before they say anything elsewhere, so what is not there now is none of ours.
void FdPort::receive(const UniqueFd& connection) {
  ucred peer{};
  socklen_t length = sizeof(peer);
  std::uint64_t tag = 0;
  alignas(cmsghdr) Control control{};
  iovec part{&tag, sizeof(tag)};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control.data();
  message.msg_controllen = control.size();
  const ssize_t size = recvmsg(connection.get(), &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  std::vector<UniqueFd> fds;
  for (cmsghdr* header = size < 0 ? nullptr : CMSG_FIRSTHDR(&message); header != nullptr;
       header = CMSG_NXTHDR(&message, header)) {
    if (header->cmsg_level != SOL_SOCKET || header->cmsg_type != SCM_RIGHTS) continue;
    const std::size_t count = (header->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (std::size_t i = 0; i < count; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(header) + i * sizeof(int), sizeof(fd));
      fds.emplace_back(fd);
    }
  }
  const bool known = getsockopt(connection.get(), SOL_SOCKET, SO_PEERCRED, &peer, &length) == 0 &&
                     peer.uid == geteuid();
  if (!known || size != sizeof(tag) || (message.msg_flags & MSG_CTRUNC) != 0 || fds.empty() ||
      kept_.size() >= kMostKept) {
    return;
  }
  kept_[tag] = std::move(fds);
}

}  // namespace fulgur::transport
