#include "common/base/buffer_pool.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdlib>
#include <mutex>
#include <new>
#include <utility>
#include <vector>

namespace fulgur {
namespace {

constexpr std::size_t kSmallest = 512;

/// Blocks come in powers of two, so that one freed by a message fits the next of its kind.
std::size_t shelf_of(std::size_t bytes) {
  return static_cast<std::size_t>(std::bit_width(std::max(bytes, kSmallest) - 1));
}

}  // namespace

class BufferPool::Shelves {
 public:
  Shelves(std::size_t limit, BlockSource source) : source_(std::move(source)), limit_(limit) {}
  ~Shelves() {
    for (auto& shelf : shelves_) {
      for (std::byte* block : shelf) source_.free(block);
    }
  }

  MemoryKind memory() const { return source_.kind; }

  std::byte* take(std::size_t shelf) {
    {
      const std::lock_guard lock(mutex_);
      if (!shelves_[shelf].empty()) {
        std::byte* block = shelves_[shelf].back();
        shelves_[shelf].pop_back();
        cached_ -= std::size_t{1} << shelf;
        return block;
      }
    }
    auto* block = static_cast<std::byte*>(source_.allocate(std::size_t{1} << shelf));
    if (block == nullptr) throw std::bad_alloc();
    return block;
  }

  void put(std::byte* block, std::size_t shelf) {
    {
      const std::lock_guard lock(mutex_);
      if (cached_ + (std::size_t{1} << shelf) <= limit_) {
        shelves_[shelf].push_back(block);
        cached_ += std::size_t{1} << shelf;
        return;
      }
    }
    source_.free(block);
  }

 private:
  const BlockSource source_;
  const std::size_t limit_;
  std::mutex mutex_;
  std::size_t cached_ = 0;
  std::array<std::vector<std::byte*>, 64> shelves_;
};

BlockSource host_block_source() {
  return {MemoryKind::host,
          [](std::size_t bytes) { return std::aligned_alloc(kCacheLine, bytes); },
          [](void* block) { std::free(block); }};
}

BufferPool::BufferPool(std::size_t cached_bytes)
    : BufferPool(cached_bytes, host_block_source()) {}

BufferPool::BufferPool(std::size_t cached_bytes, BlockSource source)
    : shelves_(std::make_shared<Shelves>(cached_bytes, std::move(source))) {}

MemoryKind BufferPool::memory() const { return shelves_->memory(); }

std::shared_ptr<std::byte> BufferPool::take(std::size_t bytes) {
  const std::size_t shelf = shelf_of(bytes);
  return {shelves_->take(shelf),
          [shelves = shelves_, shelf](std::byte* block) { shelves->put(block, shelf); }};
}

}  // namespace fulgur
