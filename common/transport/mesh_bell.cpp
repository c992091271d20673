#include "common/transport/mesh_bell.hpp"

#include <sched.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <ctime>

#include "common/base/assert.hpp"

namespace fulgur::transport {
namespace {

constexpr std::uint64_t kOwnToken = ~std::uint64_t{0};
constexpr int kLooksPerYield = 32;
/// A round of looks and a yield take about two microseconds, tens with an interrupt. Another thread
/// that gets the core keeps it for its time slice.
constexpr Nanoseconds kCoreIsWanted = 300 * kMicrosecond;
constexpr Nanoseconds kFirstPause = 100 * kMillisecond;
constexpr Nanoseconds kLongestPause = 2 * kSecond;
constexpr Nanoseconds kPauseDecay = 100 * kMicrosecond;  // for each yield that was free

Nanoseconds now() { return RealClock().now(); }

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

/// epoll_wait with a timeout in nanoseconds, in whole milliseconds on kernels before 5.11.
int wait_for_events(int epoll_fd, std::span<epoll_event> events, Nanoseconds timeout) {
  const int most = static_cast<int>(events.size());
  if (timeout == 0) return epoll_wait(epoll_fd, events.data(), most, 0);
  const timespec limit{timeout / kSecond, timeout % kSecond};
  const int count = epoll_pwait2(epoll_fd, events.data(), most, &limit, nullptr);
  if (count >= 0 || errno != ENOSYS) return count;
  const Nanoseconds ms = std::min<Nanoseconds>((timeout + kMillisecond - 1) / kMillisecond, 60'000);
  return epoll_wait(epoll_fd, events.data(), most, static_cast<int>(ms));
}

}  // namespace

MeshBell::MeshBell(Sleeper& sleeper, Nanoseconds spin)
    : sleeper_(sleeper),
      spin_most_(spin),
      spin_now_(spin),
      spin_pause_(kFirstPause),
      event_fd_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)),
      epoll_fd_(epoll_create1(EPOLL_CLOEXEC)) {
  FULGUR_ASSERT(event_fd_ >= 0 && epoll_fd_ >= 0, "no file descriptors left for a doorbell");
  watch(event_fd_, kOwnToken);
}

MeshBell::~MeshBell() {
  close(epoll_fd_);
  close(event_fd_);
}

void MeshBell::ring() {
  rung_.store(true);
  if (!asleep_.exchange(false)) return;
  const std::uint64_t one = 1;
  [[maybe_unused]] const auto written = write(event_fd_, &one, sizeof(one));
}

void MeshBell::watch(int fd, std::uint64_t token) {
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = token;
  const int rc = epoll_ctl(epoll_fd_, EPOLL_CTL_ADD, fd, &event);
  FULGUR_ASSERT(rc == 0, "epoll_ctl failed");
}

void MeshBell::unwatch(int fd) { epoll_ctl(epoll_fd_, EPOLL_CTL_DEL, fd, nullptr); }

std::span<const std::uint64_t> MeshBell::ready() {
  constexpr unsigned kPollsPerLook = 4;
  if (ready_count_ == 0 && ++polls_since_look_ >= kPollsPerLook) look(0);
  return {ready_.data(), std::exchange(ready_count_, 0)};
}

/// Waits for readable descriptors and keeps their tokens; false when there are none.
bool MeshBell::look(Nanoseconds timeout) {
  std::array<epoll_event, 64> events;
  const int count = wait_for_events(epoll_fd_, events, timeout);
  polls_since_look_ = 0;
  ready_count_ = 0;
  for (int i = 0; i < count; ++i) {
    if (events[i].data.u64 == kOwnToken) {
      std::uint64_t rings = 0;
      [[maybe_unused]] const auto drained = read(event_fd_, &rings, sizeof(rings));
    } else {
      ready_[ready_count_++] = events[i].data.u64;
    }
  }
  return count > 0;
}

void MeshBell::wait(Nanoseconds timeout) {
  timeout = std::min(timeout, sleeper_.until_timer());
  if (timeout > 0 && !rung_.load() && !sleeper_.has_work() && !spin()) sleep(timeout);
  rung_.store(false);
}

/// Whether something came while waiting busily. Waking a sleeping thread costs tens of
/// microseconds, so it pays to wait about as long; it never pays while another thread wants the
/// core.
bool MeshBell::spin() {
  if (spin_most_ == 0 || !sleeper_.may_spin()) return false;
  const Nanoseconds start = now();
  if (start < spin_again_at_) return false;
  for (Nanoseconds before = start; before - start < spin_now_;) {
    for (int i = 0; i < kLooksPerYield; ++i) {
      if (rung_.load(std::memory_order_relaxed) || sleeper_.has_work()) return true;
      relax();
    }
    if (look(0)) return true;
    sched_yield();
    const Nanoseconds after = now();
    if (after - before > kCoreIsWanted) {
      spin_again_at_ = after + spin_pause_;
      spin_pause_ = std::min(2 * spin_pause_, kLongestPause);
      return false;
    }
    spin_pause_ = std::max(spin_pause_ - kPauseDecay, kFirstPause);
    before = after;
  }
  spin_now_ /= 2;
  return false;
}

void MeshBell::sleep(Nanoseconds timeout) {
  const bool spins = spin_most_ != 0 && sleeper_.may_spin();
  const Nanoseconds start = spins ? now() : 0;
  asleep_.store(true);
  sleeper_.set_asleep(true);
  // Both sides store, then load: whoever rings after this check sees asleep and writes.
  if (!rung_.load() && !sleeper_.has_work()) look(timeout);
  sleeper_.set_asleep(false);
  asleep_.store(false);
  if (spins && now() - start < spin_most_) spin_now_ = spin_most_;  // spinning would have been enough
}

}  // namespace fulgur::transport
