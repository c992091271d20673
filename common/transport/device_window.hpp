// Credits of one direction of a device link: how much of the receiver's ring is taken, counted in
// bytes since the start like the shared-memory ring's head and tail. Tensors are contiguous, so one
// that would cross the end of the ring begins the next lap. Both ends keep the same books from the
// same sizes in the same order. NCCL has no ring; there the numbers bound memory only.
#pragma once

#include <cstdint>
#include <deque>

namespace fulgur::transport {

class DeviceWindow {
 public:
  static constexpr std::uint64_t kAlign = 256;

  /// `size` bytes, a multiple of 16 * kAlign.
  explicit DeviceWindow(std::uint64_t size) : size_(size) {}

  /// The largest tensor: 3/8 of the ring. What is skipped at the end of a lap is smaller than the
  /// tensor, so one of this size fits whenever 3/4 is free, and a receiver may keep a quarter to
  /// itself before it says what it has given back.
  std::uint64_t largest() const { return size_ / 8 * 3; }

  /// Where the next tensor of `bytes` would begin.
  std::uint64_t place(std::uint64_t bytes) const {
    const std::uint64_t lap_left = size_ - end_ % size_;
    return round_up(bytes) <= lap_left ? end_ : end_ + lap_left;
  }
  bool fits(std::uint64_t bytes) const {
    return bytes <= largest() && place(bytes) + round_up(bytes) - released_ <= size_;
  }
  /// Takes the place; returns its offset in the ring.
  std::uint64_t take(std::uint64_t bytes) {
    const std::uint64_t at = place(bytes);
    end_ = at + round_up(bytes);
    return at % size_;
  }
  /// Everything before `position` is free again; false for a position that cannot be.
  bool release_to(std::uint64_t position) {
    if (position < released_ || position > end_) return false;
    released_ = position;
    return true;
  }

  std::uint64_t size() const { return size_; }
  std::uint64_t end() const { return end_; }
  std::uint64_t released() const { return released_; }
  std::uint64_t used() const { return end_ - released_; }

 private:
  static std::uint64_t round_up(std::uint64_t bytes) {
    return (bytes + kAlign - 1) / kAlign * kAlign;
  }

  const std::uint64_t size_;
  std::uint64_t end_ = 0;
  std::uint64_t released_ = 0;
};

/// The receiver's side: consumers let go of tensors in any order, the window moves in order.
class DeviceReceipts {
 public:
  explicit DeviceReceipts(std::uint64_t size) : window_(size) {}

  const DeviceWindow& window() const { return window_; }
  /// The sequence numbers are 1, 2, …
  std::uint64_t take(std::uint64_t bytes) {
    const std::uint64_t offset = window_.take(bytes);
    ends_.push_back({window_.end(), false});
    return offset;
  }
  void release(std::uint64_t sequence) {
    ends_[sequence - first_].released = true;
    for (; !ends_.empty() && ends_.front().released; ends_.pop_front(), ++first_) {
      window_.release_to(ends_.front().end);
    }
  }
  /// Whether the sender should be told even though nothing goes its way.
  bool report_due() const { return window_.released() - reported_ >= window_.size() / 4; }
  std::uint64_t reported() const { return reported_; }
  std::uint64_t report() { return reported_ = window_.released(); }

 private:
  struct Taken {
    std::uint64_t end;
    bool released;
  };
  DeviceWindow window_;
  std::deque<Taken> ends_;
  std::uint64_t first_ = 1;
  std::uint64_t reported_ = 0;
};

}  // namespace fulgur::transport
