// Buffers that are reused: fresh pages cost up to ten microseconds each, so a block that was touched
// once is kept. Thread-safe; a buffer may be released by any thread (a transport frees a frame after
// sending) and may outlive the pool.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>

#include "common/base/memory.hpp"

namespace fulgur {

/// Where a pool's blocks come from. Both functions are thread-safe; allocate() gives memory aligned
/// to kCacheLine at least, or null.
struct BlockSource {
  MemoryKind kind = MemoryKind::host;
  std::function<void*(std::size_t bytes)> allocate;
  std::function<void(void*)> free;
};

/// Ordinary host memory.
BlockSource host_block_source();

class BufferPool {
 public:
  /// Of host memory. Keeps at most `cached_bytes` of free blocks.
  explicit BufferPool(std::size_t cached_bytes = std::size_t{256} << 20);
  BufferPool(std::size_t cached_bytes, BlockSource source);

  /// A 64-byte-aligned block of at least `bytes`, contents undefined; back to the pool with its
  /// last owner. Throws std::bad_alloc.
  std::shared_ptr<std::byte> take(std::size_t bytes);
  /// The same, but null where take() throws.
  std::shared_ptr<std::byte> take_if_any(std::size_t bytes);

  MemoryKind memory() const;

 private:
  class Shelves;
  std::shared_ptr<Shelves> shelves_;
};

}  // namespace fulgur
