#include "kernels/cuda/device_memory.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cstdint>

namespace fulgur::kernels::cuda {
namespace {

constexpr std::size_t kAlignment = 512;
constexpr std::size_t kChunkBytes = std::size_t{64} << 20;
constexpr double kGiB = 1 << 30;

}  // namespace

void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  (void)cudaGetLastError();  // the next launch must not find it
  if (status == cudaErrorMemoryAllocation) {
    throw OutOfDeviceMemory(fmt::format("cuda: {}: {}", what, cudaGetErrorString(status)));
  }
  throw CudaFailure(fmt::format("cuda: {}: {}", what, cudaGetErrorString(status)));
}

std::shared_ptr<DeviceMemory> DeviceMemory::of(int device) {
  static std::mutex mutex;
  static std::map<int, std::weak_ptr<DeviceMemory>> known;
  const std::lock_guard lock(mutex);
  auto memory = known[device].lock();
  if (!memory) known[device] = memory = std::make_shared<DeviceMemory>(device);
  return memory;
}

DeviceMemory::~DeviceMemory() {
  for (const Chunk& chunk : chunks_) (void)cudaFree(chunk.start);
}

std::shared_ptr<std::byte> DeviceMemory::take(std::size_t bytes) {
  const std::size_t size =
      (std::max<std::size_t>(bytes, 1) + kAlignment - 1) / kAlignment * kAlignment;
  std::byte* start = nullptr;
  {
    const std::lock_guard lock(mutex_);
    start = carve(size);
    if (start == nullptr) {
      add_chunk(size);
      start = carve(size);
    }
  }
  // The pieces keep the chunks alive: an Expert may outlive the backend that packed it.
  return {start, [memory = shared_from_this()](std::byte* piece) { memory->give_back(piece); }};
}

/// The first free piece that is large enough, or null.
std::byte* DeviceMemory::carve(std::size_t bytes) {
  for (auto& [start, piece] : pieces_) {
    if (!piece.free || piece.bytes < bytes) continue;
    if (piece.bytes > bytes) {
      pieces_[start + bytes] = {piece.bytes - bytes, piece.chunk, true};
      piece.bytes = bytes;
    }
    piece.free = false;
    free_bytes_ -= bytes;
    return start;
  }
  return nullptr;
}

/// Null when there is not so much.
std::byte* DeviceMemory::ask_driver(std::size_t bytes) {
  void* start = nullptr;
  check(cudaSetDevice(device_), "cudaSetDevice");
  if (cudaMalloc(&start, bytes) == cudaSuccess) return static_cast<std::byte*>(start);
  (void)cudaGetLastError();  // the next launch must not find it
  return nullptr;
}

void DeviceMemory::add_chunk(std::size_t bytes) {
  std::size_t size = std::max(bytes, kChunkBytes);
  std::byte* start = ask_driver(size);
  if (start == nullptr)
    start = ask_driver(size = bytes);  // the last of it need not be a whole chunk
  if (start == nullptr && take_trims_.load()) {
    free_idle_chunks();
    start = ask_driver(size);
  }
  if (start == nullptr) {
    std::size_t free = 0, total = 0;
    (void)cudaMemGetInfo(&free, &total);
    throw OutOfDeviceMemory(fmt::format(
        "cuda: GPU {} has no memory for {:.2f} GiB more: {:.2f} of {:.2f} GiB are free", device_,
        static_cast<double>(bytes) / kGiB, static_cast<double>(free + free_bytes_) / kGiB,
        static_cast<double>(total) / kGiB));
  }
  chunks_.push_back({start, size});
  pieces_[start] = {size, chunks_.size() - 1, true};
  free_bytes_ += size;
}

void DeviceMemory::trim() {
  const std::lock_guard lock(mutex_);
  free_idle_chunks();
}

void DeviceMemory::free_idle_chunks() {
  for (Chunk& chunk : chunks_) {
    const auto whole = pieces_.find(chunk.start);
    if (whole == pieces_.end() || !whole->second.free || whole->second.bytes != chunk.bytes) {
      continue;
    }
    free_bytes_ -= chunk.bytes;
    pieces_.erase(whole);
    (void)cudaFree(chunk.start);
    chunk = {};
  }
}

std::shared_ptr<std::byte> DeviceMemory::take_alone(std::size_t bytes) {
  constexpr std::size_t kWord = 16;
  const std::size_t size = (std::max<std::size_t>(bytes, 1) + kWord - 1) / kWord * kWord;
  std::byte* start = ask_driver(size);
  if (start == nullptr) throw OutOfDeviceMemory("cuda: no memory for an array of a test");
  const std::lock_guard lock(mutex_);
  alone_.push_back({start, size});
  return {start, [memory = shared_from_this()](std::byte* block) { memory->free_alone(block); }};
}

void DeviceMemory::free_alone(std::byte* start) {
  {
    const std::lock_guard lock(mutex_);
    std::erase_if(alone_, [start](const Chunk& block) { return block.start == start; });
  }
  (void)cudaFree(start);  // waits for the device
}

void DeviceMemory::add_stream(cudaStream_t stream) {
  const std::lock_guard lock(streams_mutex_);
  streams_.push_back(stream);
}

void DeviceMemory::remove_stream(cudaStream_t stream) {
  const std::lock_guard lock(streams_mutex_);
  std::erase(streams_, stream);
}

/// Not for the whole device: a receive of NCCL's may wait there for a peer that has died, until the
/// thread that now waits here aborts it.
void DeviceMemory::wait_for_streams() {
  (void)cudaSetDevice(device_);
  const std::lock_guard lock(streams_mutex_);
  for (const cudaStream_t stream : streams_) (void)cudaStreamSynchronize(stream);
}

void DeviceMemory::give_back(std::byte* start) {
  wait_for_streams();  // rare: weights that leave, buffers that grow
  const std::lock_guard lock(mutex_);
  auto piece = pieces_.find(start);
  piece->second.free = true;
  free_bytes_ += piece->second.bytes;
  const auto joins = [](const Pieces::iterator& a, const Pieces::iterator& b) {
    return a->second.free && b->second.free && a->second.chunk == b->second.chunk;
  };
  if (const auto next = std::next(piece); next != pieces_.end() && joins(piece, next)) {
    piece->second.bytes += next->second.bytes;
    pieces_.erase(next);
  }
  if (piece != pieces_.begin()) {
    if (const auto before = std::prev(piece); joins(before, piece)) {
      before->second.bytes += piece->second.bytes;
      pieces_.erase(piece);
    }
  }
}

bool DeviceMemory::owns(const void* pointer) const {
  const auto address = reinterpret_cast<std::uintptr_t>(pointer);
  const std::lock_guard lock(mutex_);
  const auto holds = [address](const Chunk& chunk) {
    return address - reinterpret_cast<std::uintptr_t>(chunk.start) < chunk.bytes;
  };
  return std::any_of(chunks_.begin(), chunks_.end(), holds) ||
         std::any_of(alone_.begin(), alone_.end(), holds);
}

bool DeviceMemory::reaches(const void* pointer) const {
  if (owns(pointer)) return true;
  cudaPointerAttributes attributes{};
  if (cudaPointerGetAttributes(&attributes, pointer) == cudaSuccess) {
    return attributes.type == cudaMemoryTypeDevice;
  }
  (void)cudaGetLastError();
  return false;
}

std::size_t DeviceMemory::available() const {
  std::size_t free = 0, total = 0;
  (void)cudaMemGetInfo(&free, &total);
  const std::lock_guard lock(mutex_);
  return free + free_bytes_;
}

}  // namespace fulgur::kernels::cuda
