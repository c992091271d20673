// The few things a device transport asks of a GPU and of NCCL, as an interface: cuda_gpu.hpp is the
// real one, tests/unit/transport/fake_gpu.hpp one with scripted delays, failures and aborts. No
// call on the data path blocks: work is started, and asked for later.
//
// Thread contract: the reactor's thread, except where said.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "common/base/buffer_pool.hpp"
#include "common/base/status.hpp"
#include "common/transport/transport.hpp"

namespace fulgur::transport {

/// One tensor on its way. A sender gives `source`, and `offset` in the peer's ring (peer carrier);
/// a receiver of the nccl carrier gives `target`.
struct GpuTransfer {
  const std::byte* source = nullptr;
  std::byte* target = nullptr;
  std::uint64_t offset = 0;
  std::size_t bytes = 0;
  void* ready = nullptr;  ///< as wire::Frame::ready: the transfer begins after it
};

/// One direction of one link on the device. Transfers run one after the other in the order they
/// were started, and the receiver's order is the sender's.
class GpuChannel {
 public:
  /// Call after stopped() only; before, the device may still be using memory.
  virtual ~GpuChannel() = default;
  /// Whether start() may be called now. A failure is for good.
  virtual Result<bool> idle() = 0;
  virtual Status start(const GpuTransfer& transfer) = 0;
  /// How many transfers are over, counted since the channel was made: a sender may reuse their
  /// sources, a receiver read their targets. A failure is for good.
  virtual Result<std::uint64_t> completed() = 0;
  /// Begins to stop whatever runs, also where the peer is gone. start() is not called any more.
  virtual void abort() = 0;
  /// After abort(): whether nothing of this channel touches this process's memory any more.
  virtual bool stopped() = 0;
};

/// The receiving end of a peer carrier: a ring in this GPU's memory that one peer writes to.
struct GpuInbox {
  std::shared_ptr<std::byte> ring;
  std::string token;  ///< says to the peer how to reach it; at most kGpuTokenBytes
  std::unique_ptr<GpuChannel> channel;
};

inline constexpr std::size_t kGpuTokenBytes = 512;

class GpuApi {
 public:
  virtual ~GpuApi() = default;

  /// What peers need to know of this GPU and process before they choose a carrier; not empty, at
  /// most wire::kMaxNameBytes.
  virtual std::string identity() const = 0;
  /// Whether it is worth trying `carrier` with a process of that identity.
  virtual bool may_use(DeviceCarrier carrier, const std::string& theirs) const = 0;

  /// peer carrier: makes a ring for a process of that identity, or opens the one it made. May take
  /// milliseconds.
  virtual Result<GpuInbox> make_inbox(std::size_t bytes, const std::string& theirs) = 0;
  virtual Result<std::unique_ptr<GpuChannel>> open_outbox(const std::string& token,
                                                          std::size_t bytes) = 0;

  /// nccl carrier: an id for one direction, and joining it from either end. The channel is idle()
  /// when both ends have joined.
  virtual Result<std::string> make_id() = 0;
  virtual Result<std::unique_ptr<GpuChannel>> join(const std::string& id, bool sends) = 0;

  /// Device memory for one received tensor. resource_exhausted when there is none.
  virtual Result<std::shared_ptr<std::byte>> take(std::size_t bytes) = 0;

  /// Copies and waits for it; `ready` as in wire::Frame. For handshakes, and where nothing better
  /// connects two processes.
  virtual Status upload(std::byte* device, const void* host, std::size_t bytes) = 0;
  virtual Status download(void* host, const std::byte* device, std::size_t bytes, void* ready) = 0;
  /// Host memory that it copies to and from fastest.
  virtual BlockSource host_blocks() const { return host_block_source(); }
};

}  // namespace fulgur::transport
