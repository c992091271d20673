// Bounds of everything that crosses the wire. A decoder refuses what exceeds them before it
// allocates; a sender that takes numbers from outside checks with validate() (codec.hpp).
#pragma once

#include <cstddef>
#include <cstdint>

namespace fulgur::wire {

/// One message, all frames together. A dispatch of 8192 rows of M1 in bf16 is 96 MiB.
inline constexpr std::size_t kMaxMessageBytes = 256U << 20;
inline constexpr std::size_t kMaxFrames = 64;

inline constexpr std::size_t kMaxNameBytes = 256;      ///< service names, sender, numerics
inline constexpr std::size_t kMaxEndpointBytes = 512;
inline constexpr std::size_t kMaxTextBytes = 4096;     ///< Done, Ack and Prepared messages

inline constexpr std::uint32_t kMaxRows = 65'536;      ///< of one dispatch
inline constexpr std::uint32_t kMaxHidden = 65'536;
inline constexpr std::uint32_t kMaxRoutes = 1U << 20;
inline constexpr std::uint32_t kMaxLayers = 1024;
inline constexpr std::uint32_t kMaxExperts = 1024;     ///< of one layer
inline constexpr std::uint32_t kMaxSlots = 64;         ///< experts of one token

inline constexpr std::size_t kMaxTokens = 4U << 20;    ///< prompt and generated; M1's context is 1M
inline constexpr std::size_t kMaxStopIds = 4096;
inline constexpr std::size_t kMaxLogitBias = 1024;
inline constexpr std::size_t kMaxTopLogprobs = 20;
inline constexpr std::size_t kMaxTokenEvents = 65'536; ///< of one Tokens message

inline constexpr std::size_t kMaxSnapshotChunk = 4U << 20;    ///< bytes of one SnapshotChunk
inline constexpr std::uint64_t kMaxSnapshotBytes = 1ULL << 40;  ///< of one layer; and of a snapshot

inline constexpr std::size_t kMaxServices = 4096;      ///< workers, shards of one placement

/// Words of a replica bitmap [layers, experts].
constexpr std::size_t bitmap_words(std::uint32_t layers, std::uint32_t experts) {
  return (static_cast<std::size_t>(layers) * experts + 63) / 64;
}

}  // namespace fulgur::wire
