// A bounded byte ring in memory shared by two processes, one writing and one reading messages.
// Messages of any size stream through it in chunks, so that the reader copies while the writer is
// still writing. Neither side trusts the other: indices and lengths are checked, never assumed.
//
// A message is [u64: magic << 32 | frames][u64 size of each frame][frames, each padded to 8 bytes].
// Head and tail count bytes since the start; everything advances by whole 8-byte words.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <optional>

#include "common/base/buffer_pool.hpp"
#include "common/base/status.hpp"
#include "common/wire/limits.hpp"
#include "common/wire/messages.hpp"

namespace fulgur::transport {

/// Shared words of one ring. Zero is the initial state.
struct RingControl {
  alignas(64) std::atomic<std::uint64_t> tail;  ///< written by the producer
  alignas(64) std::atomic<std::uint64_t> head;  ///< written by the consumer
  alignas(64) std::atomic<std::uint32_t> consumer_asleep;
  std::atomic<std::uint32_t> producer_waits;  ///< for room
};
static_assert(std::atomic<std::uint64_t>::is_always_lock_free);

/// The writing end. Used by one thread.
class RingSender {
 public:
  /// `data` has `capacity` bytes, a power of two. `wake` is called when something was published
  /// and the consumer sleeps.
  RingSender(RingControl& control, std::byte* data, std::size_t capacity,
             std::function<void()> wake)
      : control_(control), data_(data), capacity_(capacity), wake_(std::move(wake)) {}

  void push(wire::Frames frames);
  /// Copies what fits; data_loss when the consumer wrote nonsense.
  Status pump();
  bool pending() const { return !queue_.empty(); }
  /// Room appeared for what is pending.
  bool can_progress() const;

  std::size_t pending_messages() const { return queue_.size(); }
  std::size_t pending_bytes() const { return pending_bytes_; }

 private:
  struct Outgoing {
    wire::Frames frames;
    std::size_t bytes = 0;
    std::array<std::uint64_t, wire::kMaxFrames + 1> prefix;
  };

  void write_some();
  std::size_t copy_in(const std::byte* source, std::size_t size, std::size_t padded);
  void publish();

  RingControl& control_;
  std::byte* const data_;
  const std::size_t capacity_;
  const std::function<void()> wake_;
  std::uint64_t tail_ = 0;
  std::uint64_t published_ = 0;
  std::uint64_t head_seen_ = 0;
  std::deque<Outgoing> queue_;
  std::size_t pending_bytes_ = 0;
  std::size_t part_ = 0;    ///< of the first message: 0 is the prefix, then the frames
  std::size_t offset_ = 0;  ///< within the part, padding included
};

/// The reading end. Used by one thread.
class RingReceiver {
 public:
  /// `wake` is called when room appeared that the producer waits for.
  RingReceiver(RingControl& control, const std::byte* data, std::size_t capacity, BufferPool& pool,
               std::function<void()> wake)
      : control_(control), data_(data), capacity_(capacity), pool_(pool), wake_(std::move(wake)) {}

  using Sink = std::function<void(wire::Frames)>;
  /// Hands at most `most` whole messages to `sink`, each copied once into one pooled block with
  /// frames at 64-byte boundaries. data_loss when the producer wrote nonsense, and ever after.
  Status pump(std::size_t most, const Sink& sink);
  bool has_data() const { return control_.tail.load(std::memory_order_acquire) != head_; }
  void set_asleep(bool asleep) { control_.consumer_asleep.store(asleep ? 1 : 0); }

 private:
  Status read_messages(std::size_t most, const Sink& sink);
  Status refresh();
  Status read_prefix();
  Status read_sizes();
  void copy_out(std::byte* target, std::size_t size);
  void begin_payload();
  bool read_payload();
  void publish();

  RingControl& control_;
  const std::byte* const data_;
  const std::size_t capacity_;
  BufferPool& pool_;
  const std::function<void()> wake_;
  std::uint64_t head_ = 0;
  std::uint64_t published_ = 0;
  std::uint64_t tail_seen_ = 0;
  std::size_t frames_ = 0;  ///< of the message being read; 0: at a prefix
  std::size_t sizes_read_ = 0;
  std::array<std::uint64_t, wire::kMaxFrames> sizes_{};
  wire::Frames incoming_;
  std::byte* block_ = nullptr;
  std::size_t frame_ = 0;
  std::size_t offset_ = 0;  ///< within the frame, padding included
  std::optional<Status> broken_;
};

}  // namespace fulgur::transport
