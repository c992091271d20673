// What two device transports say to each other on the link beside the device: a fixed header as the
// first frame of every message, then text or tokens, or the host frames of a message of services
// whose tensor travels on the device. See docs/protocol.md, section 8.
#pragma once

#include <cstdint>
#include <string>

#include "common/base/status.hpp"
#include "common/transport/transport.hpp"

namespace fulgur::transport {

enum class DeviceKind : std::uint8_t {
  propose = 1,  ///< dialer: let us try this carrier; its tokens follow
  accept = 2,   ///< the other end's tokens follow
  refuse = 3,   ///< not this attempt, or not any longer; why follows as text
  probe = 4,    ///< a tensor of known bytes is on its way: as data, from the handshake
  proved = 5,   ///< yours has arrived whole
  data = 6,     ///< a message of services, with a tensor on the device or without one
  credit = 7,   ///< only `released`
};

/// Little-endian, 64 bytes. Fields that a kind does not use are 0.
struct DeviceHeader {
  static constexpr std::uint32_t kMagic = 0x44'4c'47'46;  // "FGLD"

  std::uint32_t magic = kMagic;
  DeviceKind kind = DeviceKind::data;
  DeviceCarrier carrier = DeviceCarrier::none;
  std::uint16_t frame = 0;     ///< where the tensor belongs among the frames that follow
  std::uint64_t attempt = 0;   ///< of the dialer; a message of another attempt is stale
  std::uint64_t sequence = 0;  ///< of the tensor: 1, 2, …; 0: none
  std::uint64_t offset = 0;    ///< of the tensor in the receiver's ring
  std::uint64_t bytes = 0;     ///< of the tensor
  std::uint64_t released = 0;  ///< of the window this end receives into, in all
  std::uint64_t window = 0;    ///< propose, accept: its size
  std::uint64_t reserved = 0;
};
static_assert(sizeof(DeviceHeader) == 64);

wire::Frame encode_header(const DeviceHeader& header);

/// Takes the header off `frames`. data_loss: no such header, or a value that is none.
Result<DeviceHeader> take_header(wire::Frames& frames);

wire::Frame text_frame(std::string text);
/// At most `limit` bytes of a host frame as text.
std::string frame_text(const wire::Frame& frame, std::size_t limit);

}  // namespace fulgur::transport
