#include "common/transport/shm_ring.hpp"

#include <algorithm>
#include <cstring>

#include "common/transport/event.hpp"

namespace fulgur::transport {
namespace {

constexpr std::uint64_t kMagic = 0x46554c47;  // "FULG"
constexpr std::size_t kWord = 8;
/// Copied between two publications: small enough to overlap both copies, large enough to be rare.
constexpr std::size_t kChunk = 32U << 10;

constexpr std::size_t padded(std::size_t size) { return (size + kWord - 1) / kWord * kWord; }
constexpr std::size_t aligned(std::size_t size) { return (size + 63) / 64 * 64; }

}  // namespace

void RingSender::push(wire::Frames frames) {
  Outgoing& message = queue_.emplace_back();
  message.frames = std::move(frames);
  message.bytes = bytes_of(message.frames);
  message.prefix[0] = kMagic << 32 | message.frames.size();
  for (std::size_t i = 0; i < message.frames.size(); ++i) {
    message.prefix[i + 1] = message.frames[i].size;
  }
  pending_bytes_ += message.bytes;
}

Status RingSender::pump() {
  while (pending()) {
    head_seen_ = control_.head.load(std::memory_order_acquire);
    if (tail_ - head_seen_ > capacity_ || head_seen_ % kWord != 0) {
      return {Code::data_loss, "the peer corrupted the shared-memory ring"};
    }
    if (tail_ - head_seen_ < capacity_) {
      write_some();
      continue;
    }
    // Full: ask for a bell, then look again, because the consumer may not have seen the request.
    if (control_.producer_waits.exchange(1) == 1) break;
    if (control_.head.load() == head_seen_) break;
  }
  if (!pending()) control_.producer_waits.store(0, std::memory_order_relaxed);
  return Status::ok();
}

bool RingSender::can_progress() const {
  return pending() && control_.head.load(std::memory_order_acquire) != head_seen_;
}

/// Writes parts of the first message until the ring looks full or the message is done.
void RingSender::write_some() {
  Outgoing& message = queue_.front();
  while (part_ <= message.frames.size()) {
    const bool prefix = part_ == 0;
    const auto* source = prefix ? reinterpret_cast<const std::byte*>(message.prefix.data())
                                : message.frames[part_ - 1].data;
    const std::size_t size =
        prefix ? (message.frames.size() + 1) * kWord : message.frames[part_ - 1].size;
    if (offset_ < padded(size)) {
      const std::size_t copied = copy_in(source, size, padded(size));
      if (copied == 0) return publish();
      offset_ += copied;
      if (tail_ - published_ >= kChunk) publish();
    }
    if (offset_ < padded(size)) continue;
    ++part_;
    offset_ = 0;
  }
  publish();
  pending_bytes_ -= message.bytes;
  queue_.pop_front();
  part_ = 0;
}

/// Copies at most a chunk of source[offset_, padded) to the tail; the padding is left as it is.
std::size_t RingSender::copy_in(const std::byte* source, std::size_t size, std::size_t whole) {
  const std::size_t at = tail_ & (capacity_ - 1);
  const std::size_t room = capacity_ - (tail_ - head_seen_);
  const std::size_t count = std::min({room, capacity_ - at, whole - offset_, kChunk});
  if (offset_ < size) std::memcpy(data_ + at, source + offset_, std::min(count, size - offset_));
  tail_ += count;
  return count;
}

void RingSender::publish() {
  if (tail_ == published_) return;
  control_.tail.store(tail_, std::memory_order_seq_cst);
  published_ = tail_;
  // The consumer stores asleep, then loads tail; this side stores tail, then loads asleep.
  if (control_.consumer_asleep.load(std::memory_order_seq_cst) != 0 &&
      control_.consumer_asleep.exchange(0) != 0) {
    wake_();
  }
}

Status RingReceiver::pump(std::size_t most, const Sink& sink) {
  if (!broken_) {
    if (Status read = read_messages(most, sink); !read) broken_ = std::move(read);
  }
  return broken_.value_or(Status::ok());
}

Status RingReceiver::read_messages(std::size_t most, const Sink& sink) {
  for (std::size_t done = 0; done < most;) {
    FULGUR_RETURN_IF_ERROR(refresh());
    if (tail_seen_ == head_) break;
    if (frames_ == 0) FULGUR_RETURN_IF_ERROR(read_prefix());
    if (sizes_read_ < frames_) FULGUR_RETURN_IF_ERROR(read_sizes());
    if (sizes_read_ == frames_ && read_payload()) {
      sink(std::move(incoming_));
      incoming_ = {};
      frames_ = 0;
      ++done;
    }
    publish();
  }
  return Status::ok();
}

Status RingReceiver::refresh() {
  if (tail_seen_ != head_) return Status::ok();
  tail_seen_ = control_.tail.load(std::memory_order_acquire);
  if (tail_seen_ - head_ > capacity_ || tail_seen_ % kWord != 0) {
    return {Code::data_loss, "the peer corrupted the shared-memory ring"};
  }
  return Status::ok();
}

Status RingReceiver::read_prefix() {
  std::uint64_t prefix = 0;
  copy_out(reinterpret_cast<std::byte*>(&prefix), kWord);
  frames_ = static_cast<std::uint32_t>(prefix);
  sizes_read_ = 0;
  if (prefix >> 32 != kMagic || frames_ == 0 || frames_ > wire::kMaxFrames) {
    return error(Code::data_loss, "no message at the head of the shared-memory ring: {:#x}",
                 prefix);
  }
  return Status::ok();
}

Status RingReceiver::read_sizes() {
  while (sizes_read_ < frames_ && head_ != tail_seen_) {
    copy_out(reinterpret_cast<std::byte*>(&sizes_[sizes_read_++]), kWord);
  }
  if (sizes_read_ < frames_) return Status::ok();
  std::size_t total = 0;
  for (std::size_t i = 0; i < frames_; ++i) {
    if (sizes_[i] > wire::kMaxMessageBytes) total = wire::kMaxMessageBytes;
    total += sizes_[i] > wire::kMaxMessageBytes ? 1 : sizes_[i];
  }
  if (total > wire::kMaxMessageBytes) {
    return error(Code::data_loss, "message of over {} bytes in the shared-memory ring",
                 wire::kMaxMessageBytes);
  }
  begin_payload();
  return Status::ok();
}

void RingReceiver::begin_payload() {
  std::size_t total = 0;
  for (std::size_t i = 0; i < frames_; ++i) total += aligned(sizes_[i]);
  const std::shared_ptr<std::byte> owner = pool_.take(total);
  block_ = owner.get();
  incoming_.resize(frames_);
  std::size_t at = 0;
  for (std::size_t i = 0; i < frames_; ++i) {
    incoming_[i] = {owner, block_ + at, sizes_[i]};
    at += aligned(sizes_[i]);
  }
  frame_ = offset_ = 0;
}

/// Copies what is there; true when the message is whole. The padding of a frame falls into the gap
/// that its alignment leaves.
bool RingReceiver::read_payload() {
  while (frame_ < frames_) {
    const std::size_t whole = padded(sizes_[frame_]);
    const std::size_t count =
        std::min({whole - offset_, static_cast<std::size_t>(tail_seen_ - head_), kChunk});
    if (count == 0 && whole != offset_) return false;
    copy_out(block_ + (incoming_[frame_].data - block_) + offset_, count);
    offset_ += count;
    if (head_ - published_ >= kChunk) publish();
    if (offset_ < whole) continue;
    ++frame_;
    offset_ = 0;
  }
  return true;
}

/// `size` bytes are known to be there; they may wrap around.
void RingReceiver::copy_out(std::byte* target, std::size_t size) {
  const std::size_t at = head_ & (capacity_ - 1);
  const std::size_t first = std::min(size, capacity_ - at);
  std::memcpy(target, data_ + at, first);
  if (first < size) std::memcpy(target + first, data_, size - first);
  head_ += size;
}

void RingReceiver::publish() {
  if (head_ == published_) return;
  control_.head.store(head_, std::memory_order_seq_cst);
  published_ = head_;
  // A quarter of the ring must be free, so that a producer that sleeps is woken rarely.
  if (tail_seen_ - head_ > capacity_ / 4 * 3) return;
  if (control_.producer_waits.load(std::memory_order_seq_cst) != 0 &&
      control_.producer_waits.exchange(0) != 0) {
    wake_();
  }
}

}  // namespace fulgur::transport
