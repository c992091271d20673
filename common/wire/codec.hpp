// Message <-> Cap'n Proto frames. Encoding never copies tensor memory: the activations and outputs
// blocks become segments of their own that reference it. Decoding is bounded (limits.hpp, explicit
// traversal limit) and total: any bytes give a Message or a Status, never a crash. Thread-safe.
#pragma once

#include "common/wire/messages.hpp"

namespace fulgur::wire {

/// Segments of the encoded message; the tensor block, if any, is a segment of its own that shares
/// ownership with message.body's Frame. It is copied only when it is not 8-byte aligned or not a
/// whole number of 8-byte words. The message must pass validate(); the receiver drops it otherwise.
Frames encode(const Message& message);

/// data_loss for malformed or oversized input, failed_precondition for another protocol version.
/// Tensor blocks in the result reference (and keep alive) the frames given; a frame that is not
/// 8-byte aligned is copied first.
Result<Message> decode(Frames frames);

/// Whether every list, number, enum and text of the message is within the bounds of limits.hpp and
/// its sizes agree; invalid_argument names the field. decode() applies it to everything it returns.
Status validate(const Message& message);

/// Tells a damaged block from a whole one (SnapshotChunk::checksum). Against accidents, not against
/// an adversary. Defined on little-endian machines only.
std::uint64_t checksum(std::span<const std::byte> bytes);

/// Lower-case name of the body's alternative, e.g. "dispatch".
std::string_view body_name(const Body& body);

}  // namespace fulgur::wire
