#include "common/transport/packed_part.hpp"

#include <algorithm>
#include <cstring>

#include "common/wire/limits.hpp"

namespace fulgur::transport {
namespace {

/// Then the frames' sizes, 8 bytes each, then the frames, each padded with zeros to whole words.
struct Head {
  std::uint8_t magic = kMagic;
  PartKind kind = PartKind::packed;
  std::uint16_t count = 0;
  std::uint32_t zero = 0;
};
constexpr std::size_t kWord = sizeof(std::uint64_t);
static_assert(sizeof(Head) == kWord);

/// Whole words that hold `bytes`; the caller has bounded them.
constexpr std::size_t padded(std::size_t bytes) { return (bytes + kWord - 1) / kWord * kWord; }

}  // namespace

std::span<const wire::Frame> packable(std::span<const wire::Frame> frames) {
  std::size_t count = 0;
  for (std::size_t bytes = sizeof(Head); count < frames.size(); ++count) {
    if (frames[count].size > kMaxPackedBytes) break;
    bytes += kWord + padded(frames[count].size);
    if (bytes > kMaxPackedBytes) break;
  }
  return frames.first(count);
}

std::size_t packed_size(std::span<const wire::Frame> frames) {
  std::size_t bytes = sizeof(Head);
  for (const wire::Frame& frame : frames) bytes += kWord + padded(frame.size);
  return bytes;
}

void pack(std::span<const wire::Frame> frames, std::byte* part) {
  Head head;
  head.count = static_cast<std::uint16_t>(frames.size());
  std::memcpy(part, &head, sizeof(head));
  std::byte* size_at = part + sizeof(head);
  std::byte* at = size_at + frames.size() * kWord;
  for (const wire::Frame& frame : frames) {
    const std::uint64_t size = frame.size;
    std::memcpy(size_at, &size, sizeof(size));
    size_at += kWord;
    if (size != 0) std::memcpy(at, frame.data, size);
    std::fill_n(at + size, padded(size) - size, std::byte{0});
    at += padded(size);
  }
}

bool unpack(std::span<const std::byte> part, const std::shared_ptr<const void>& owner,
            wire::Frames& frames) {
  Head head;
  if (part.size() < sizeof(head) || part.size() % kWord != 0) return false;
  std::memcpy(&head, part.data(), sizeof(head));
  if (head.magic != kMagic || head.kind != PartKind::packed || head.zero != 0) return false;
  if (head.count > wire::kMaxFrames) return false;
  std::span<const std::byte> rest = part.subspan(sizeof(head));
  if (rest.size() / kWord < head.count) return false;
  const std::byte* size_at = rest.data();
  rest = rest.subspan(head.count * kWord);
  for (std::size_t i = 0; i < head.count; ++i, size_at += kWord) {
    std::uint64_t size = 0;
    std::memcpy(&size, size_at, sizeof(size));
    // What is left is whole words, so a size that fits does so with its padding.
    if (size > rest.size()) return false;
    frames.push_back({owner, rest.data(), size});
    rest = rest.subspan(padded(size));
  }
  return rest.empty();
}

}  // namespace fulgur::transport
