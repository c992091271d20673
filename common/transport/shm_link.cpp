#include "common/transport/shm_link.hpp"

#include <sched.h>

#include "common/transport/event.hpp"

namespace fulgur::transport {

ShmLink::ShmLink(std::unique_ptr<ShmSegment> segment, bool creator, BufferPool& pool)
    : segment_(std::move(segment)),
      sender_(segment_->control(creator ? 0 : 1), segment_->data(creator ? 0 : 1),
              segment_->ring_bytes(), [this] { segment_->ring_peer(); }),
      receiver_(segment_->control(creator ? 1 : 0), segment_->data(creator ? 1 : 0),
                segment_->ring_bytes(), pool, [this] { segment_->ring_peer(); }) {}

Status ShmLink::send(wire::Frames frames, const LinkLimits& limits) {
  if (sender_.pending() &&
      (sender_.pending_messages() >= limits.queue_messages ||
       sender_.pending_bytes() + bytes_of(frames) > limits.queue_bytes)) {
    return {Code::resource_exhausted, "send queue is full"};
  }
  sender_.push(std::move(frames));
  return sender_.pump();
}

Status ShmLink::pump(std::size_t most, const RingReceiver::Sink& sink) {
  Status sent = sender_.pending() ? sender_.pump() : Status::ok();
  const Status received = receiver_.pump(most, sink);
  return sent.is_ok() ? received : sent;
}

void ShmLink::flush(Nanoseconds patience) {
  const RealClock clock;
  const Nanoseconds end = clock.now() + patience;
  while (sender_.pending() && clock.now() < end) {
    if (!sender_.pump()) return;
    sched_yield();
  }
}

}  // namespace fulgur::transport
