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

  /// A block and the shelf it belongs on; null: neither the source nor any shelf has one.
  std::pair<std::byte*, std::size_t> take(std::size_t shelf) {
    if (std::byte* block = from_shelf(shelf)) return {block, shelf};
    auto* block = static_cast<std::byte*>(source_.allocate(std::size_t{1} << shelf));
    if (block != nullptr) return {block, shelf};
    // A larger one that lies idle. Freeing it for a fresh one would wait for the whole device.
    for (std::size_t larger = shelf + 1; larger < shelves_.size(); ++larger) {
      if (std::byte* idle = from_shelf(larger)) return {idle, larger};
    }
    return {nullptr, shelf};
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
  std::byte* from_shelf(std::size_t shelf) {
    const std::lock_guard lock(mutex_);
    if (shelves_[shelf].empty()) return nullptr;
    std::byte* block = shelves_[shelf].back();
    shelves_[shelf].pop_back();
    cached_ -= std::size_t{1} << shelf;
    return block;
  }

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
  auto block = take_if_any(bytes);
  if (block == nullptr) throw std::bad_alloc();
  return block;
}

std::shared_ptr<std::byte> BufferPool::take_if_any(std::size_t bytes) {
  const auto [block, shelf] = shelves_->take(shelf_of(bytes));
  if (block == nullptr) return nullptr;
  return {block,
          [shelves = shelves_, shelf = shelf](std::byte* done) { shelves->put(done, shelf); }};
}

}  // namespace fulgur
