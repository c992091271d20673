// Memory that is expensive to touch the first time. On virtual machines a page fault costs up to
// ten microseconds, so buffers of the data path are aligned, touched once and reused.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>
#include <new>
#include <span>

namespace fulgur {

inline constexpr std::size_t kCacheLine = 64;

/// Where bytes are. device: memory of one GPU, which the CPU must not dereference.
enum class MemoryKind : unsigned char { host = 0, device = 1 };

/// Keeps large blocks on the heap instead of giving each its own mmap: call first thing in main.
void tune_allocator();

/// A 64-byte-aligned array of trivially copyable T that grows and never shrinks; contents are not
/// kept across growth. Not initialised.
template <class T>
class AlignedBuffer {
 public:
  AlignedBuffer() = default;
  explicit AlignedBuffer(std::size_t count) { reserve(count); }

  /// Makes room for `count` elements; returns the start of the array.
  T* reserve(std::size_t count) {
    if (count > capacity_) {
      const std::size_t bytes = (count * sizeof(T) + kCacheLine - 1) / kCacheLine * kCacheLine;
      data_.reset(static_cast<T*>(std::aligned_alloc(kCacheLine, bytes)));
      if (!data_) throw std::bad_alloc();
      capacity_ = count;
    }
    return data_.get();
  }

  T* data() { return data_.get(); }
  const T* data() const { return data_.get(); }
  std::size_t capacity() const { return capacity_; }
  std::span<T> span(std::size_t count) { return {data_.get(), count}; }

 private:
  struct Free {
    void operator()(T* pointer) const { std::free(pointer); }
  };
  std::unique_ptr<T, Free> data_;
  std::size_t capacity_ = 0;
};

}  // namespace fulgur
