// Message <-> Cap'n Proto frames. Encoding never copies tensor memory: the activations and outputs
// blocks become segments of their own that reference it. Decoding is bounded (limits.hpp, explicit
// traversal limit) and total: any bytes give a Message or a Status, never a crash. Thread-safe.
#pragma once

#include "common/wire/messages.hpp"

namespace fulgur::wire {

/// Segments of the encoded message; the tensor block, if any, is a segment of its own that shares
/// ownership with message.body's Frame.
Frames encode(const Message& message);

/// data_loss for malformed or oversized input, failed_precondition for another protocol version.
/// Tensor blocks in the result reference (and keep alive) the frames given.
Result<Message> decode(Frames frames);

}  // namespace fulgur::wire
