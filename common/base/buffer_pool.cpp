#include "common/base/buffer_pool.hpp"

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <new>

#include "common/base/assert.hpp"
#include "common/base/memory.hpp"

namespace fulgur {
namespace {

constexpr std::size_t kSmallest = 256;

std::size_t class_of(std::size_t bytes) {
  return static_cast<std::size_t>(std::bit_width((std::max(bytes, kSmallest) - 1) / kSmallest));
}

std::size_t class_bytes(std::size_t size_class) { return kSmallest << size_class; }

}  // namespace

std::shared_ptr<BufferPool> BufferPool::make(std::size_t idle_bytes_max) {
  std::shared_ptr<BufferPool> pool(new BufferPool(idle_bytes_max));
  pool->self_ = pool;
  return pool;
}

BufferPool::~BufferPool() {
  for (auto& list : idle_) {
    for (auto* memory : list) std::free(memory);
  }
}

std::shared_ptr<std::byte> BufferPool::take(std::size_t bytes) {
  const std::size_t size_class = class_of(bytes);
  FULGUR_ASSERT(size_class < kClasses, "buffer too large");
  std::byte* memory = nullptr;
  {
    const std::lock_guard lock(mutex_);
    auto& list = idle_[size_class];
    if (!list.empty()) {
      memory = list.back();
      list.pop_back();
      idle_bytes_ -= class_bytes(size_class);
    }
  }
  if (memory == nullptr) {
    memory = static_cast<std::byte*>(std::aligned_alloc(kCacheLine, class_bytes(size_class)));
    if (memory == nullptr) throw std::bad_alloc();
  }
  return {memory, [pool = self_.lock(), size_class](std::byte* released) {
            pool->release(released, size_class);
          }};
}

void BufferPool::release(std::byte* memory, std::size_t size_class) {
  {
    const std::lock_guard lock(mutex_);
    if (idle_bytes_ + class_bytes(size_class) <= idle_bytes_max_) {
      idle_[size_class].push_back(memory);
      idle_bytes_ += class_bytes(size_class);
      return;
    }
  }
  std::free(memory);
}

std::size_t BufferPool::idle_bytes() const {
  const std::lock_guard lock(mutex_);
  return idle_bytes_;
}

}  // namespace fulgur
