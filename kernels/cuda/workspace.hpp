// The stream of one backend and what its calls use up: scratch memory of the device, and pinned
// host memory through which lists and rows come and go. Both grow to what the largest call needs
// and are reused; kernels of one stream run in order, so scratch of the last call may be
// overwritten by the next. A growth that is refused throws OutOfDeviceMemory and leaves a workspace
// that serves smaller calls. One thread at a time.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "kernels/cuda/device_memory.hpp"

namespace fulgur::kernels::cuda {

class Workspace {
 public:
  /// strict: CudaOptions::strict.
  Workspace(std::shared_ptr<DeviceMemory> memory, bool strict);
  ~Workspace();
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  cudaStream_t stream() const { return stream_; }
  DeviceMemory& memory() const { return *memory_; }
  /// Memory that outlives the call.
  std::shared_ptr<std::byte> keep(std::size_t bytes) {
    ++taken_;
    return strict_ ? memory_->take_alone(bytes) : memory_->take(bytes);
  }
  /// Pinned host memory that outlives the call.
  std::shared_ptr<std::byte> keep_pinned(std::size_t bytes);

  /// A new call: all scratch is free again, and the device is the current one.
  void begin();
  /// Scratch for this call, 256-byte aligned.
  template <class T>
  T* take(std::size_t count) {
    return static_cast<T*>(take_bytes(count * sizeof(T)));
  }
  /// Host values in scratch, by the time the next kernel runs; the source may be gone at once.
  template <class T>
  T* upload(std::span<const T> values) {
    return static_cast<T*>(upload_bytes(values.data(), values.size_bytes()));
  }
  /// Pinned host memory until the next begin() or take of it, for upload_pinned().
  std::byte* pinned(std::size_t bytes);
  void* upload_pinned(const std::byte* pinned, std::size_t bytes);
  /// Copies to the device and returns when the source may be gone; to host memory and waits.
  void copy_in(void* device, const void* host, std::size_t bytes);
  void copy_out(void* host, const void* device, std::size_t bytes);
  void wait();
  /// Ends growing: scratch becomes one block for the largest call so far and an eighth more.
  void settle();
  /// Pieces of memory asked for so far, of the device and pinned.
  std::uint64_t taken() const { return taken_; }

 private:
  void add_block(std::size_t bytes);
  void* take_bytes(std::size_t bytes);
  void* upload_bytes(const void* host, std::size_t bytes);

  struct Block {
    std::shared_ptr<std::byte> memory;
    std::size_t bytes = 0;
  };

  std::shared_ptr<DeviceMemory> memory_;
  const bool strict_;
  cudaStream_t stream_ = nullptr;
  std::vector<Block> blocks_;  ///< one in steady state, none after a refusal; take() uses the last
  std::vector<std::shared_ptr<std::byte>> arrays_;  ///< instead of blocks, when strict
  std::size_t used_ = 0;                            ///< of the last block
  std::size_t call_ = 0;                            ///< bytes of this call
  std::size_t largest_ = 0;                         ///< of any call
  std::uint64_t taken_ = 0;
  std::shared_ptr<std::byte> pinned_;
  std::size_t pinned_bytes_ = 0;
  std::size_t pinned_used_ = 0;  ///< copies from below it may not have happened yet
};

/// Several lists of a call, brought to the device in one copy.
class Lists {
 public:
  explicit Lists(Workspace& work) : work_(work) {}
  /// `device` points to the values after send().
  template <class T>
  void add(std::span<const T> values, const T*& device) {
    const std::size_t at = (bytes_.size() + kAlignment - 1) / kAlignment * kAlignment;
    bytes_.resize(at + values.size_bytes());
    if (!values.empty()) std::memcpy(bytes_.data() + at, values.data(), values.size_bytes());
    places_.push_back(
        [&device, at](const std::byte* start) { device = reinterpret_cast<const T*>(start + at); });
  }
  template <class T>
  void add(const std::vector<T>& values, const T*& device) {
    add(std::span<const T>(values), device);
  }
  void send();

 private:
  static constexpr std::size_t kAlignment = 16;
  Workspace& work_;
  std::vector<std::byte> bytes_;
  std::vector<std::function<void(const std::byte*)>> places_;
};

}  // namespace fulgur::kernels::cuda
