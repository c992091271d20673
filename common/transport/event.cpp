#include "common/transport/event.hpp"

#include "common/wire/limits.hpp"

namespace fulgur::transport {

Status check_frames(const wire::Frames& frames) {
  if (frames.empty() || frames.size() > wire::kMaxFrames) {
    return error(Code::invalid_argument, "message of {} frames, limit {}", frames.size(),
                 wire::kMaxFrames);
  }
  const std::size_t bytes = bytes_of(frames);
  if (bytes <= wire::kMaxMessageBytes) return Status::ok();
  return error(Code::invalid_argument, "message of {} bytes, limit {}", bytes,
               wire::kMaxMessageBytes);
}

}  // namespace fulgur::transport
