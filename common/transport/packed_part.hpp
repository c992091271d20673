// The small frames at the start of a message as one ZeroMQ part: every part costs both sides a pass
// through libzmq's queue, encoder and decoder, which is dearer than copying some KiB. Layout in
// docs/protocol.md, section 4. No sockets here, so that tests and fuzzers reach it with any bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "common/wire/messages.hpp"

namespace fulgur::transport {

/// First byte of every message between two transports.
inline constexpr std::uint8_t kMagic = 0xf6;

/// Second byte: what the rest is.
enum class PartKind : std::uint8_t { hello = 1, data = 2, bye = 3, packed = 4 };

/// A packed part is no larger: copying 16 KiB costs about what it saves.
inline constexpr std::size_t kMaxPackedBytes = 16U << 10;

/// The frames at the start of a message that go into its first part; the others are parts of their
/// own.
std::span<const wire::Frame> packable(std::span<const wire::Frame> frames);

/// Size of the part that holds `frames`.
std::size_t packed_size(std::span<const wire::Frame> frames);

/// Writes packed_size(frames) bytes.
void pack(std::span<const wire::Frame> frames, std::byte* part);

/// Appends the frames in a part, which `owner` keeps alive; false when it is not one that pack()
/// could have written. Frames are as aligned as the part, to 8 bytes at most.
bool unpack(std::span<const std::byte> part, const std::shared_ptr<const void>& owner,
            wire::Frames& frames);

}  // namespace fulgur::transport
