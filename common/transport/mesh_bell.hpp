// How a MeshTransport's reactor sleeps: on one epoll set of the eventfd behind ring(), the file
// descriptors of ZeroMQ sockets and the FIFOs of shared-memory links, after a short busy wait when
// there are shared-memory links. ring() is thread-safe, the rest belongs to the reactor.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <span>

#include "common/transport/transport.hpp"

namespace fulgur::transport {

/// What the bell asks its transport.
class Sleeper {
 public:
  virtual ~Sleeper() = default;
  /// Something arrived that no file descriptor tells of.
  virtual bool has_work() = 0;
  /// Whether busy waiting can shorten the wait.
  virtual bool may_spin() const = 0;
  /// Tells shared-memory peers whether they must wake this process.
  virtual void set_asleep(bool asleep) = 0;
  /// How long until a timer of the transport is due.
  virtual Nanoseconds until_timer() const = 0;
};

class MeshBell final : public Doorbell {
 public:
  MeshBell(Sleeper& sleeper, Nanoseconds spin);
  ~MeshBell() override;
  MeshBell(const MeshBell&) = delete;
  MeshBell& operator=(const MeshBell&) = delete;

  void ring() override;
  /// May return early, so that poll() runs a timer that is due.
  void wait(Nanoseconds timeout) override;

  void watch(int fd, std::uint64_t token);
  void unwatch(int fd);
  /// Tokens of the descriptors that were readable when the last wait() ended; asks the kernel anew
  /// only now and then, for callers that poll without waiting.
  std::span<const std::uint64_t> ready();

 private:
  bool spin();
  void sleep(Nanoseconds timeout);
  bool look(Nanoseconds timeout);

  Sleeper& sleeper_;
  const Nanoseconds spin_most_;
  Nanoseconds spin_now_;  ///< adapts: halves when spinning was in vain
  Nanoseconds spin_pause_;     ///< without spinning, after the core was seen to be wanted
  Nanoseconds spin_again_at_ = 0;
  int event_fd_;
  int epoll_fd_;
  std::atomic<bool> rung_{false};
  std::atomic<bool> asleep_{false};
  std::array<std::uint64_t, 64> ready_{};
  std::size_t ready_count_ = 0;
  unsigned polls_since_look_ = 0;
};

}  // namespace fulgur::transport
