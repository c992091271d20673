// Buffers that are reused: fresh pages cost up to ten microseconds each, so a block that was touched
// once is kept. Thread-safe; a buffer may be released by any thread (a transport frees a frame after
// sending) and may outlive the pool.
#pragma once

#include <cstddef>
#include <memory>

namespace fulgur {

class BufferPool {
 public:
  /// Keeps at most `cached_bytes` of free blocks.
  explicit BufferPool(std::size_t cached_bytes = std::size_t{256} << 20);

  /// A 64-byte-aligned block of at least `bytes`, contents undefined; back to the pool with its
  /// last owner.
  std::shared_ptr<std::byte> take(std::size_t bytes);

 private:
  class Shelves;
  std::shared_ptr<Shelves> shelves_;
};

}  // namespace fulgur
