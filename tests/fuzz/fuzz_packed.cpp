// The reader of packed ZeroMQ parts on arbitrary bytes: what it accepts lies inside the part, and
// packed again it is a part that gives the same frames.
#include <algorithm>
#include <cstring>

#include "common/base/assert.hpp"
#include "common/transport/packed_part.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace fulgur;
  // A copy of its own size: reads past its end are seen by the sanitizer.
  const auto owner = std::shared_ptr<std::byte[]>(new std::byte[size]);
  if (size != 0) std::memcpy(owner.get(), data, size);
  wire::Frames frames;
  if (!transport::unpack({owner.get(), size}, owner, frames)) return 0;
  for (const wire::Frame& frame : frames) {
    FULGUR_ASSERT(frame.data >= owner.get() && frame.data + frame.size <= owner.get() + size,
                  "a frame outside its part");
  }
  FULGUR_ASSERT(transport::packed_size(frames) == size, "packs to another size");
  const auto again = std::shared_ptr<std::byte[]>(new std::byte[size]);
  transport::pack(frames, again.get());
  wire::Frames back;
  FULGUR_ASSERT(transport::unpack({again.get(), size}, again, back) && back == frames,
                "does not round-trip");
  return 0;
}
