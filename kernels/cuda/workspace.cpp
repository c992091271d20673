#include "kernels/cuda/workspace.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

namespace fulgur::kernels::cuda {
namespace {

constexpr std::size_t kAlignment = 256;
constexpr std::size_t kFirstScratch = std::size_t{8} << 20;
constexpr std::size_t kFirstPinned = std::size_t{4} << 20;

std::size_t aligned(std::size_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

}  // namespace

Workspace::Workspace(std::shared_ptr<DeviceMemory> memory, bool strict)
    : memory_(std::move(memory)), strict_(strict) {
  check(cudaSetDevice(memory_->device()), "cudaSetDevice");
  check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
  memory_->add_stream(stream_);
  try {
    blocks_.push_back({memory_->take(kFirstScratch), kFirstScratch});
  } catch (...) {
    memory_->remove_stream(stream_);
    (void)cudaStreamDestroy(stream_);
    throw;
  }
}

Workspace::~Workspace() {
  (void)cudaStreamSynchronize(stream_);
  memory_->remove_stream(stream_);
  (void)cudaStreamDestroy(stream_);
}

void Workspace::begin() {
  check(cudaSetDevice(memory_->device()), "cudaSetDevice");
  used_ = 0;
  call_ = 0;
  arrays_.clear();
  if (blocks_.size() > 1) {  // the last call needed more than there was: have it in one piece
    std::size_t total = 0;
    for (const Block& block : blocks_) total += block.bytes;
    blocks_.clear();
    try {
      add_block(total);
    } catch (const OutOfDeviceMemory&) {  // in pieces, then
      add_block(kFirstScratch);
    }
  }
}

void Workspace::add_block(std::size_t bytes) {
  ++taken_;
  blocks_.push_back({memory_->take(bytes), bytes});
  used_ = 0;
}

void Workspace::settle() {
  const std::size_t wanted = largest_ + largest_ / 8;
  if (strict_ || (blocks_.size() == 1 && blocks_[0].bytes >= wanted)) return;
  wait();
  blocks_.clear();
  add_block(std::max(wanted, kFirstScratch));
}

void* Workspace::take_bytes(std::size_t bytes) {
  if (strict_) {
    ++taken_;
    arrays_.push_back(memory_->take_alone(bytes));
    check(cudaMemsetAsync(arrays_.back().get(), 0xff, bytes, stream_), "cudaMemset");
    return arrays_.back().get();
  }
  bytes = aligned(std::max<std::size_t>(bytes, 1));
  if (blocks_.empty() || used_ + bytes > blocks_.back().bytes) {
    add_block(std::max(bytes, kFirstScratch));
  }
  std::byte* at = blocks_.back().memory.get() + used_;
  used_ += bytes;
  call_ += bytes;
  largest_ = std::max(largest_, call_);
  return at;
}

std::byte* Workspace::pinned(std::size_t bytes) {
  bytes = aligned(bytes);
  if (pinned_used_ + bytes > pinned_bytes_) {
    wait();
    if (bytes > pinned_bytes_) {
      const std::size_t size = std::max(bytes, kFirstPinned);
      pinned_.reset();
      pinned_bytes_ = 0;
      pinned_ = keep_pinned(size);
      pinned_bytes_ = size;
    }
  }
  std::byte* at = pinned_.get() + pinned_used_;
  pinned_used_ += bytes;
  return at;
}

std::shared_ptr<std::byte> Workspace::keep_pinned(std::size_t bytes) {
  ++taken_;
  void* memory = nullptr;
  const cudaError_t status = cudaHostAlloc(&memory, bytes, cudaHostAllocDefault);
  if (status == cudaErrorMemoryAllocation) {
    (void)cudaGetLastError();  // the next launch must not find it
    throw OutOfDeviceMemory(
        fmt::format("cuda: the host has no memory for {:.2f} GiB more of pinned memory",
                    static_cast<double>(bytes) / (1 << 30)));
  }
  check(status, "cudaHostAlloc");
  return {static_cast<std::byte*>(memory), [](std::byte* pinned) { (void)cudaFreeHost(pinned); }};
}

void* Workspace::upload_pinned(const std::byte* pinned, std::size_t bytes) {
  void* device = take_bytes(bytes);
  if (bytes > 0) {
    check(cudaMemcpyAsync(device, pinned, bytes, cudaMemcpyHostToDevice, stream_), "copy in");
  }
  return device;
}

void* Workspace::upload_bytes(const void* host, std::size_t bytes) {
  std::byte* staging = pinned(bytes);
  if (bytes > 0) std::memcpy(staging, host, bytes);
  return upload_pinned(staging, bytes);
}

void Workspace::copy_in(void* device, const void* host, std::size_t bytes) {
  if (bytes == 0) return;
  // From pageable memory the driver copies through pinned memory of its own before it returns.
  check(cudaMemcpyAsync(device, host, bytes, cudaMemcpyHostToDevice, stream_), "copy in");
  wait();
}

void Workspace::copy_out(void* host, const void* device, std::size_t bytes) {
  if (bytes == 0) return wait();
  if (bytes > kFirstPinned / 4) {
    check(cudaMemcpyAsync(host, device, bytes, cudaMemcpyDeviceToHost, stream_), "copy out");
    return wait();
  }
  std::byte* staging = pinned(bytes);
  check(cudaMemcpyAsync(staging, device, bytes, cudaMemcpyDeviceToHost, stream_), "copy out");
  wait();
  std::memcpy(host, staging, bytes);
}

void Workspace::wait() {
  check(cudaStreamSynchronize(stream_), "kernels");
  pinned_used_ = 0;
}

void Lists::send() {
  const auto* start = work_.upload(std::span<const std::byte>(bytes_));
  for (const auto& place : places_) place(start);
}

}  // namespace fulgur::kernels::cuda
