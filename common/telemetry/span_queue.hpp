// Finished spans on their way from any thread to the exporter's: a bounded ring that neither side
// ever waits at (Vyukov's bounded queue with sequence numbers per cell, here with one consumer). A
// reactor must not sleep because the exporter was preempted with a lock in its hand.
#pragma once

#include <atomic>
#include <bit>
#include <cstdint>
#include <memory>
#include <utility>

#include "common/telemetry/tracing.hpp"

namespace fulgur::telemetry {

class SpanQueue {
 public:
  /// Holds at least `capacity` spans.
  explicit SpanQueue(std::size_t capacity)
      : mask_(std::bit_ceil(capacity) - 1), cells_(new Cell[mask_ + 1]) {
    for (std::size_t i = 0; i <= mask_; ++i) cells_[i].turn.store(i, std::memory_order_relaxed);
  }

  std::size_t capacity() const { return mask_ + 1; }
  /// As of some moment.
  std::size_t size() const {
    const std::uint64_t taken = head_.load(std::memory_order_relaxed);
    return tail_.load(std::memory_order_relaxed) - taken;
  }

  /// False, and the span is gone, when the ring is full. Any thread.
  bool push(Span&& span) {
    std::uint64_t at = tail_.load(std::memory_order_relaxed);
    while (true) {
      Cell& cell = cells_[at & mask_];
      const std::uint64_t turn = cell.turn.load(std::memory_order_acquire);
      if (turn < at) return false;  // what was here a round ago has not been taken
      if (turn > at) {
        at = tail_.load(std::memory_order_relaxed);
      } else if (tail_.compare_exchange_weak(at, at + 1, std::memory_order_relaxed)) {
        cell.span = std::move(span);
        cell.turn.store(at + 1, std::memory_order_release);
        return true;
      }
    }
  }

  /// False when there is none. One thread.
  bool pop(Span& span) {
    const std::uint64_t at = head_.load(std::memory_order_relaxed);
    Cell& cell = cells_[at & mask_];
    if (cell.turn.load(std::memory_order_acquire) != at + 1) return false;
    span = std::move(cell.span);
    cell.turn.store(at + mask_ + 1, std::memory_order_release);
    head_.store(at + 1, std::memory_order_relaxed);
    return true;
  }

 private:
  struct Cell {
    std::atomic<std::uint64_t> turn;
    Span span;
  };

  const std::size_t mask_;
  const std::unique_ptr<Cell[]> cells_;
  alignas(64) std::atomic<std::uint64_t> tail_{0};
  alignas(64) std::atomic<std::uint64_t> head_{0};
};

}  // namespace fulgur::telemetry
