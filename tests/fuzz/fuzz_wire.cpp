// The wire decoder on arbitrary bytes: the input is cut into frames at the places its first bytes
// name. Whatever decodes must pass validate() and survive another round trip, and the short way
// through the codec must agree with Cap'n Proto's.
#include <algorithm>
#include <cstring>

#include "common/base/assert.hpp"
#include "common/wire/codec.hpp"
#include "common/wire/codec_direct.hpp"

namespace {

fulgur::wire::Frame frame_of(const std::uint8_t* data, std::size_t size) {
  const auto owner = std::shared_ptr<std::uint64_t[]>(new std::uint64_t[size / 8 + 1]());
  std::memcpy(owner.get(), data, size);
  return {owner, reinterpret_cast<const std::byte*>(owner.get()), size};
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < 8) return 0;
  const std::size_t frames = 1 + data[0] % 4;
  const std::uint8_t* cuts = data + 1;
  data += 8;
  size -= 8;
  fulgur::wire::Frames input;
  for (std::size_t i = 0; i + 1 < frames; ++i) {
    const std::size_t part = std::min<std::size_t>(size, std::size_t{8} * cuts[i]);
    input.push_back(frame_of(data, part));
    data += part;
    size -= part;
  }
  input.push_back(frame_of(data, size / 8 * 8));
  const auto message = fulgur::wire::decode(input);
  const auto by_segments = fulgur::wire::detail::decode_segments(input);
  FULGUR_ASSERT(message.status().code() == by_segments.status().code(), "two ways, two verdicts");
  if (!message) return 0;
  FULGUR_ASSERT(fulgur::wire::validate(*message).is_ok(), "decoded, but not valid");
  FULGUR_ASSERT(fulgur::wire::decode(fulgur::wire::encode(*message)).is_ok(),
                "does not round-trip");
  return 0;
}
