#include "kernels/cuda/emulation/emulation.hpp"

#include <sys/mman.h>

#include <xmmintrin.h>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>

namespace fulgur::kernels::emulation {
namespace {

constexpr std::size_t kPage = 4096;

/// Memory of the emulated GPU, and the protection key that closes it to host code; -1: there is
/// none.
struct Memory {
  std::mutex mutex;
  struct Block {
    void* mapped;
    std::size_t bytes;
  };
  std::map<void*, Block> blocks;  ///< by the address that was given out
  std::size_t used = 0;
  std::uint64_t requests = 0;
  int key = pkey_alloc(0, PKEY_DISABLE_ACCESS);
};
Memory& memory() {
  static Memory instance;
  return instance;
}

/// Whether this request for memory is the one to be refused. Under memory().mutex.
bool refused() {
  ++memory().requests;
  return machine().refuse_in > 0 && --machine().refuse_in == 0;
}

}  // namespace

Machine& machine() {
  static Machine instance;
  return instance;
}

std::size_t allocations() {
  const std::lock_guard lock(memory().mutex);
  return memory().blocks.size();
}

std::uint64_t requests_total() {
  const std::lock_guard lock(memory().mutex);
  return memory().requests;
}

// Exceptions masked, flush to zero, subnormal operands are zero.
DeviceMode::DeviceMode() : float_mode_(_mm_getcsr()) {
  constexpr unsigned kFlush = 0x1f80U | 0x8040U;
  _mm_setcsr(kFlush);
  const int key = memory().key;
  inside_ = key < 0 || pkey_get(key) == 0;
  if (!inside_) pkey_set(key, 0);
}

DeviceMode::~DeviceMode() {
  _mm_setcsr(float_mode_);
  if (!inside_) pkey_set(memory().key, PKEY_DISABLE_ACCESS);
}

}  // namespace fulgur::kernels::emulation

using fulgur::kernels::emulation::DeviceMode;
using fulgur::kernels::emulation::kPage;
using fulgur::kernels::emulation::machine;
using fulgur::kernels::emulation::memory;
using fulgur::kernels::emulation::refused;

cudaError_t cudaGetDeviceCount(int* count) {
  *count = machine().devices;
  return *count > 0 ? cudaSuccess : cudaErrorNoDevice;
}

cudaError_t cudaSetDevice(int device) {
  return device < machine().devices ? cudaSuccess : cudaErrorInvalidValue;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrComputeCapabilityMajor ? machine().major : machine().minor;
  return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int* version) {
  *version = machine().driver;
  return cudaSuccess;
}

cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total) {
  const std::lock_guard lock(memory().mutex);
  *total = machine().memory;
  *free = memory().used < *total ? *total - memory().used : 0;
  return cudaSuccess;
}

/// The block ends at a page that may not be touched.
cudaError_t cudaMalloc(void** pointer, std::size_t bytes) {
  const std::size_t size = (bytes + kPage - 1) / kPage * kPage;
  const std::lock_guard lock(memory().mutex);
  if (refused() || memory().used + size > machine().memory) return cudaErrorMemoryAllocation;
  void* mapped =
      mmap(nullptr, size + kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) return cudaErrorMemoryAllocation;
  if (memory().key >= 0) pkey_mprotect(mapped, size, PROT_READ | PROT_WRITE, memory().key);
  auto* start = static_cast<std::byte*>(mapped);
  mprotect(start + size, kPage, PROT_NONE);
  memory().used += size;
  *pointer = start + (size - bytes);
  memory().blocks[*pointer] = {mapped, size};
  return cudaSuccess;
}

cudaError_t cudaFree(void* pointer) {
  if (pointer == nullptr) return cudaSuccess;
  const std::lock_guard lock(memory().mutex);
  const auto found = memory().blocks.find(pointer);
  if (found == memory().blocks.end()) return cudaErrorInvalidValue;
  const auto [mapped, size] = found->second;
  memory().used -= size;
  munmap(mapped, size + kPage);
  memory().blocks.erase(found);
  return cudaSuccess;
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* pointer) {
  const std::lock_guard lock(memory().mutex);
  attributes->type = cudaMemoryTypeUnregistered;
  for (const auto& [start, block] : memory().blocks) {
    const auto* first = static_cast<const std::byte*>(block.mapped);
    const auto* at = static_cast<const std::byte*>(pointer);
    if (at >= first && at < first + block.bytes) attributes->type = cudaMemoryTypeDevice;
  }
  return cudaSuccess;
}

cudaError_t cudaHostAlloc(void** pointer, std::size_t bytes, unsigned) {
  const std::lock_guard lock(memory().mutex);
  if (refused()) return cudaErrorMemoryAllocation;
  *pointer = std::malloc(bytes);
  return *pointer != nullptr ? cudaSuccess : cudaErrorMemoryAllocation;
}

cudaError_t cudaFreeHost(void* pointer) {
  std::free(pointer);
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind,
                            cudaStream_t) {
  const DeviceMode mode;
  if (bytes > 0) std::memcpy(to, from, bytes);
  return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t) {
  const DeviceMode mode;
  if (bytes > 0) std::memset(to, value, bytes);
  return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
  *stream = nullptr;
  return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }

struct EmulatedEvent {
  std::chrono::steady_clock::time_point recorded;
};
cudaError_t cudaEventCreate(cudaEvent_t* event) {
  *event = new EmulatedEvent;
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t) {
  event->recorded = std::chrono::steady_clock::now();
  return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t end) {
  *milliseconds = std::chrono::duration<float, std::milli>(end->recorded - start->recorded).count();
  return cudaSuccess;
}

cudaError_t cudaGetLastError() { return cudaSuccess; }

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidValue:
      return "invalid argument";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorNoDevice:
      return "no CUDA-capable device is detected";
    case cudaErrorNotReady:
      return "device not ready";
  }
  return "unknown error";
}
