#include "common/transport/device_message.hpp"

#include <algorithm>
#include <cstring>

namespace fulgur::transport {

wire::Frame encode_header(const DeviceHeader& header) {
  auto owner = std::make_shared<const DeviceHeader>(header);
  const auto* data = reinterpret_cast<const std::byte*>(owner.get());
  return {std::move(owner), data, sizeof(DeviceHeader)};
}

Result<DeviceHeader> take_header(wire::Frames& frames) {
  if (frames.empty() || frames.front().size != sizeof(DeviceHeader)) {
    return error(Code::data_loss, "a message without a device header");
  }
  DeviceHeader header;
  std::memcpy(&header, frames.front().data, sizeof(header));
  const auto kind = static_cast<unsigned>(header.kind);
  if (header.magic != DeviceHeader::kMagic || kind < 1 ||
      kind > static_cast<unsigned>(DeviceKind::credit) || header.carrier > DeviceCarrier::nccl) {
    return error(Code::data_loss, "a malformed device header");
  }
  frames.erase(frames.begin());
  return header;
}

wire::Frame text_frame(std::string text) {
  auto owner = std::make_shared<const std::string>(std::move(text));
  const auto* data = reinterpret_cast<const std::byte*>(owner->data());
  const std::size_t size = owner->size();
  return {std::move(owner), data, size};
}

std::string frame_text(const wire::Frame& frame, std::size_t limit) {
  return {reinterpret_cast<const char*>(frame.data), std::min(frame.size, limit)};
}

}  // namespace fulgur::transport
