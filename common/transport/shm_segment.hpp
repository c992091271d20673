// The memory of one shared-memory link and the FIFOs by which its two processes wake each other.
// The side that connects creates all three files under /dev/shm and unlinks them as soon as the
// other side has opened them, so that a process killed later leaves nothing behind. What one killed
// before that has left, the next segment that anybody creates removes: nobody holds a lock on it.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include "common/base/status.hpp"
#include "common/transport/shm_ring.hpp"

namespace fulgur::transport {

/// Equal for two processes that see the same /dev/shm as the same user: boot id, device and inode
/// of the mount, user. Empty when there is none.
std::string host_identity();

class ShmSegment {
 public:
  /// Two rings of `ring_bytes` each (a power of two, 64 KiB to 256 MiB), zeroed and touched.
  /// resource_exhausted when /dev/shm has no room.
  static Result<std::unique_ptr<ShmSegment>> create(std::size_t ring_bytes);
  /// Opens what a peer created; invalid_argument for a name or contents that are not ours.
  static Result<std::unique_ptr<ShmSegment>> open(const std::string& name);
  ~ShmSegment();
  ShmSegment(const ShmSegment&) = delete;
  ShmSegment& operator=(const ShmSegment&) = delete;

  const std::string& name() const { return name_; }
  void unlink();

  /// Ring 0 goes from the side that connects to the side that accepts, ring 1 back.
  RingControl& control(int ring);
  std::byte* data(int ring);
  std::size_t ring_bytes() const { return ring_bytes_; }

  /// Readable when the peer rang; both ends are open in both processes, so it never ends.
  int own_bell() const { return own_bell_; }
  void drain_bell();
  void ring_peer();

 private:
  ShmSegment() = default;
  Status map(int fd, std::size_t size);
  Status open_bells(bool creator);

  std::string name_;
  bool linked_ = false;  ///< the files still have names
  int lock_ = -1;        ///< creator, while they have: says that somebody will unlink them
  std::byte* memory_ = nullptr;
  std::size_t size_ = 0;
  std::size_t ring_bytes_ = 0;
  int own_bell_ = -1;
  int peer_bell_ = -1;
};

}  // namespace fulgur::transport
