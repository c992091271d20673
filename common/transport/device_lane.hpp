// The data path of one device link once two processes have agreed on a carrier: orders tensors and
// the messages around them, keeps the credits of both directions, holds every block for as long as
// the device may touch it, and says what to bury when the link ends. The same for every carrier.
//
// Thread contract: the reactor's thread; owners of delivered tensors may be dropped by any thread.
#pragma once

#include <algorithm>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include "common/transport/device_message.hpp"
#include "common/transport/device_window.hpp"
#include "common/transport/gpu_api.hpp"
#include "common/transport/options.hpp"

namespace fulgur::transport {

/// Sequence numbers of delivered tensors whose last owner is gone, on their way to the reactor.
class DeviceReturns {
 public:
  explicit DeviceReturns(Doorbell& bell) : bell_(&bell) {}
  /// Any thread.
  void put(std::uint64_t sequence);
  std::vector<std::uint64_t> take();
  /// Nobody listens any more, and the bell goes.
  void close();

 private:
  std::mutex mutex_;
  Doorbell* bell_;
  std::vector<std::uint64_t> sequences_;
};

/// What an ended lane leaves: memory that the device may still touch until both channels stopped.
struct DeviceRemains {
  std::unique_ptr<GpuChannel> out;
  std::unique_ptr<GpuChannel> in;
  std::vector<std::shared_ptr<const void>> held;

  bool stopped() const { return (!out || out->stopped()) && (!in || in->stopped()); }
};

/// The books of a lane, in bytes of its windows since it began; skipped ends of laps are counted.
struct DeviceCredits {
  std::uint64_t taken = 0;      ///< by tensors sent
  std::uint64_t freed = 0;      ///< of those, as the receiver has said
  std::uint64_t announced = 0;  ///< by tensors of the peer
  std::uint64_t returned = 0;   ///< of those, by consumers here
  std::uint64_t reported = 0;   ///< of those, to the peer
};

/// What the handshake gathers for a lane.
struct DeviceLaneParts {
  DeviceCarrier carrier = DeviceCarrier::none;
  std::uint64_t attempt = 0;
  std::unique_ptr<GpuChannel> out;
  std::unique_ptr<GpuChannel> in;
  std::shared_ptr<std::byte> ring;  ///< where tensors arrive; null: in blocks of GpuApi::take()
  std::uint64_t window_in = 0;
  std::uint64_t window_out = 0;

  /// Aborts what there is.
  DeviceRemains stop() &&;
};

class DeviceLane {
 public:
  /// Sends on the link beside the device.
  using Say = std::function<Status(wire::Frames)>;
  /// Gets complete messages in the order they were sent: kind is data or probe.
  using Sink = std::function<void(DeviceKind, wire::Frames)>;

  DeviceLane(DeviceLaneParts parts, GpuApi& gpu, const LinkLimits& limits, Doorbell& bell, Say say);
  ~DeviceLane();
  DeviceLane(const DeviceLane&) = delete;
  DeviceLane& operator=(const DeviceLane&) = delete;

  DeviceCarrier carrier() const { return parts_.carrier; }
  std::uint64_t attempt() const { return parts_.attempt; }

  std::uint64_t window_out() const { return window_out_.size(); }

  /// Whether both channels can start transfers: the peer has joined.
  Result<bool> joined();

  /// Queues a message with at most one frame in device memory. resource_exhausted when what waits
  /// is beyond the limits, invalid_argument for a tensor that can never fit.
  Status send(DeviceKind kind, wire::Frames frames);

  /// Whether the peer's window could ever hold what of the message is in device memory.
  bool takes(const wire::Frames& frames) const {
    return std::ranges::all_of(frames, [this](const wire::Frame& frame) {
      return !wire::is_device(frame) || frame.size <= window_out_.largest();
    });
  }

  /// A probe, data or credit message of this attempt, its header taken off. A failure means that
  /// the peer breaks the rules: end the link.
  Status receive(const DeviceHeader& header, wire::Frames frames);

  /// Goes on with everything; a failure means that the device is lost to this link.
  Status pump(const Sink& sink);

  /// Whether pump() has something to wait for that no doorbell tells of.
  bool busy() const;
  /// Grows whenever a transfer is over.
  std::uint64_t progress() const { return sent_ + arrived_; }
  std::uint64_t bytes_sent() const { return bytes_sent_; }
  std::uint64_t bytes_received() const { return bytes_received_; }
  /// Bytes of messages waiting, of tensors the device still reads, and of tensors announced or
  /// delivered here and not got back.
  std::uint64_t bytes_outstanding() const {
    return waiting_bytes_ + source_bytes_ + receipts_.window().used();
  }
  DeviceCredits credits() const {
    return {window_out_.end(), window_out_.released(), receipts_.window().end(),
            receipts_.window().released(), receipts_.reported()};
  }

  DeviceRemains stop();

 private:
  struct Outbound {
    DeviceKind kind = DeviceKind::data;
    wire::Frames frames;
    std::size_t device = 0;  ///< index of the frame in device memory; frames.size(): none
    bool has_tensor() const { return device < frames.size(); }
  };
  struct Inbound {
    DeviceKind kind = DeviceKind::data;
    wire::Frames frames;
    std::size_t device = 0;
    std::uint64_t sequence = 0;  ///< 0: no tensor
    std::uint64_t bytes = 0;
    std::shared_ptr<std::byte> memory;  ///< first byte of the tensor, when it has a place
  };

  Status say(const Outbound& message, const DeviceHeader& header);
  Result<bool> send_first();
  Status pump_out();
  Status start_receives();
  Status pump_in(const Sink& sink);
  Status take_returns();
  wire::Frames complete(Inbound& message);

  DeviceLaneParts parts_;
  GpuApi& gpu_;
  const LinkLimits limits_;
  const Say say_;
  std::shared_ptr<DeviceReturns> returns_;

  // Out: waiting, then said and started, in order.
  DeviceWindow window_out_;
  std::deque<Outbound> waiting_;
  std::size_t waiting_bytes_ = 0;
  std::deque<wire::Frame> sources_;  ///< of tensors sent_ + 1, sent_ + 2, …
  std::size_t source_bytes_ = 0;
  std::uint64_t started_ = 0;
  std::uint64_t sent_ = 0;

  // In: announced, then placed (nccl: received into), arrived, delivered, in order.
  DeviceReceipts receipts_;
  std::deque<Inbound> announced_;
  std::uint64_t next_in_ = 1;
  std::uint64_t placed_ = 0;  ///< tensors with a place
  std::uint64_t arrived_ = 0;
  std::uint64_t bytes_sent_ = 0;
  std::uint64_t bytes_received_ = 0;
};

}  // namespace fulgur::transport
