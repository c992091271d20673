// The payload path of one link between two processes of one host: a ring in each direction and the
// doorbells. Liveness, handshake and shutdown stay with the ZeroMQ connection beside it.
#pragma once

#include <memory>
#include <string>

#include "common/transport/options.hpp"
#include "common/transport/shm_segment.hpp"

namespace fulgur::transport {

class ShmLink {
 public:
  /// `creator` made the segment: it writes ring 0.
  ShmLink(std::unique_ptr<ShmSegment> segment, bool creator, BufferPool& pool);

  ShmSegment& segment() { return *segment_; }

  /// resource_exhausted beyond `limits`; otherwise copies now what fits, the rest in pump().
  Status send(wire::Frames frames, const LinkLimits& limits);
  /// Goes on with pending sends and reads at most `most` messages. data_loss: give the link up.
  Status pump(std::size_t most, const RingReceiver::Sink& sink);
  /// Waits until pending sends are in the ring, at most `patience`.
  void flush(Nanoseconds patience);

  bool has_work() const { return receiver_.has_data() || sender_.can_progress(); }
  void set_asleep(bool asleep) { receiver_.set_asleep(asleep); }

 private:
  std::unique_ptr<ShmSegment> segment_;
  RingSender sender_;
  RingReceiver receiver_;
};

}  // namespace fulgur::transport
