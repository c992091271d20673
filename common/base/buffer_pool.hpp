// Reused byte buffers whose last owner may be any thread (a transport frees a frame after sending).
// Keeps the data path free of fresh pages: a released buffer goes back to its size class.
#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <mutex>
#include <vector>

namespace fulgur {

/// Thread-safe. Buffers are 64-byte aligned and keep the pool alive.
class BufferPool {
 public:
  /// A pool that keeps at most `idle_bytes_max` of released buffers.
  static std::shared_ptr<BufferPool> make(std::size_t idle_bytes_max = std::size_t{256} << 20);
  ~BufferPool();
  BufferPool(const BufferPool&) = delete;
  BufferPool& operator=(const BufferPool&) = delete;

  /// At least `bytes` of uninitialised memory, rounded up to a multiple of 8.
  std::shared_ptr<std::byte> take(std::size_t bytes);
  std::size_t idle_bytes() const;

 private:
  static constexpr std::size_t kClasses = 40;  // powers of two up to 512 GiB

  explicit BufferPool(std::size_t idle_bytes_max) : idle_bytes_max_(idle_bytes_max) {}
  void release(std::byte* memory, std::size_t size_class);

  mutable std::mutex mutex_;
  std::array<std::vector<std::byte*>, kClasses> idle_;
  std::size_t idle_bytes_ = 0;
  const std::size_t idle_bytes_max_;
  std::weak_ptr<BufferPool> self_;
};

}  // namespace fulgur
