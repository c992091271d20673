// The short way through the codec for Dispatch and Combine, and the long way beside it, so that
// tests can hold one against the other. Everybody else calls encode() and decode().
#pragma once

#include "common/base/status.hpp"
#include "common/wire/messages.hpp"

namespace fulgur::wire::detail {

/// Appends the frames of an untraced Dispatch or Combine to the empty `frames`, to the byte what
/// encode_segments() makes; false for any other message, or one whose tensor must be copied.
bool write_direct(const Message& message, Frames& frames);

/// Reads a message that is laid out as write_direct() does it; false, and nothing is touched, for
/// everything else, malformed or not. Frames are aligned and within the bounds of limits.hpp; what
/// is read has yet to pass validate().
bool read_direct(const Frames& frames, Message& message);

/// encode() and decode() by Cap'n Proto's builder and reader alone.
Frames encode_segments(const Message& message);
Result<Message> decode_segments(Frames frames);

}  // namespace fulgur::wire::detail
