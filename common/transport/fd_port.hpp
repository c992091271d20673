// Hands file descriptors to another process of the same host and user: how a peer carrier passes
// the memory of a GPU. A descriptor sent is there when any later message on another channel
// arrives.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "common/base/status.hpp"

namespace fulgur::transport {

/// Owns a file descriptor.
class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~UniqueFd();

  int get() const { return fd_; }
  explicit operator bool() const { return fd_ >= 0; }

 private:
  int fd_ = -1;
};

/// Not thread-safe.
class FdPort {
 public:
  static constexpr std::size_t kMostFds = 4;    ///< of one message
  static constexpr std::size_t kMostKept = 64;  ///< messages nobody has asked for yet

  static Result<std::unique_ptr<FdPort>> open();

  /// In the abstract namespace: it goes with the process.
  const std::string& name() const { return name_; }
  /// unavailable when nobody listens under that name.
  Status send(const std::string& name, std::uint64_t tag, std::span<const int> fds) const;
  /// What came under `tag` from a process of this user; not_found when nothing did.
  Result<std::vector<UniqueFd>> take(std::uint64_t tag);

 private:
  FdPort(UniqueFd socket, std::string name) : socket_(std::move(socket)), name_(std::move(name)) {}
  void receive_all();
  void receive(const UniqueFd& connection);

  UniqueFd socket_;
  std::string name_;
  std::map<std::uint64_t, std::vector<UniqueFd>> kept_;
};

}  // namespace fulgur::transport
