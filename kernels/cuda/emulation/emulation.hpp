// The part of CUDA that the portable kernels and the CUDA backend use, on the host: so that both
// run, from the same sources, where there is neither GPU nor CUDA. A block is a loop over its
// threads between two barriers (device.cuh), the grid a loop over blocks, a stream does everything
// at once.
//
// It proves what the sources say: indices, orders of sums, bounds, what is copied where and when.
// It is stricter than a GPU in three ways: the order of threads within a phase and of blocks can be
// reversed (a result that depends on it is a race), new device memory is full of NaN, and host code
// that touches device memory dies where the processor has protection keys. It does not prove: that
// the compiler for the device keeps to IEEE, its flush to zero at the edge of rounding, real
// concurrency, missing waits for a stream, limits of the hardware.
//
// Threads: any; the emulated GPU is one, memory is shared, kernels run in the calling thread.
#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <functional>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __shared__ static thread_local

struct dim3 {
  unsigned x, y, z;
  explicit dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

enum cudaError_t {
  cudaSuccess = 0,
  cudaErrorInvalidValue = 1,
  cudaErrorMemoryAllocation = 2,
  cudaErrorNoDevice = 100,
  cudaErrorNotReady = 600,
};
enum cudaMemcpyKind { cudaMemcpyHostToDevice, cudaMemcpyDeviceToHost, cudaMemcpyDeviceToDevice };
enum cudaDeviceAttr {
  cudaDevAttrComputeCapabilityMajor,
  cudaDevAttrComputeCapabilityMinor,
};
enum cudaMemoryType { cudaMemoryTypeUnregistered, cudaMemoryTypeHost, cudaMemoryTypeDevice };
struct cudaPointerAttributes {
  cudaMemoryType type;
};
using cudaStream_t = struct EmulatedStream*;
using cudaEvent_t = struct EmulatedEvent*;
inline constexpr unsigned cudaStreamNonBlocking = 1;
inline constexpr unsigned cudaHostAllocDefault = 0;
#define CUDART_VERSION 13000

cudaError_t cudaGetDeviceCount(int* count);
cudaError_t cudaSetDevice(int device);
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device);
cudaError_t cudaDriverGetVersion(int* version);
cudaError_t cudaMemGetInfo(std::size_t* free, std::size_t* total);
cudaError_t cudaMalloc(void** pointer, std::size_t bytes);
cudaError_t cudaFree(void* pointer);
cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* pointer);
cudaError_t cudaHostAlloc(void** pointer, std::size_t bytes, unsigned flags);
cudaError_t cudaFreeHost(void* pointer);
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind,
                            cudaStream_t stream);
cudaError_t cudaMemsetAsync(void* to, int value, std::size_t bytes, cudaStream_t stream);
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamSynchronize(cudaStream_t stream);
cudaError_t cudaDeviceSynchronize();
cudaError_t cudaEventCreate(cudaEvent_t* event);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventQuery(cudaEvent_t event);
cudaError_t cudaEventSynchronize(cudaEvent_t event);
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t start, cudaEvent_t end);
cudaError_t cudaGetLastError();
const char* cudaGetErrorString(cudaError_t error);

inline std::uint32_t __float_as_uint(float x) { return std::bit_cast<std::uint32_t>(x); }
inline float __uint_as_float(std::uint32_t x) { return std::bit_cast<float>(x); }

namespace fulgur::kernels::emulation {

inline thread_local dim3 block_index;
inline thread_local dim3 block_size;
/// Threads within a phase, and blocks, run last to first.
inline thread_local bool reversed = false;

/// What the emulated machine is; takes effect at the next call.
struct Machine {
  int devices = 1;
  int major = 9;
  int minor = 0;
  int driver = 13000;
  std::size_t memory = std::size_t{4} << 30;
  /// The so manieth request for memory, of the device or pinned, counted down, is refused; 0: none.
  std::uint64_t refuse_in = 0;
};
Machine& machine();
/// Blocks of device memory that are allocated now.
std::size_t allocations();
/// Requests for memory so far, of the device and pinned, granted or not.
std::uint64_t requests_total();

/// Kernels do nothing in this thread while one lives: for what is asked for because of its memory.
class Idle {
 public:
  Idle() : before_(active()) { active() = true; }
  ~Idle() { active() = before_; }
  Idle(const Idle&) = delete;
  Idle& operator=(const Idle&) = delete;
  static bool& active() {
    static thread_local bool idle = false;
    return idle;
  }

 private:
  const bool before_;
};

template <class F>
void each_thread(const F& f) {
  const unsigned threads = block_size.x;
  if (reversed) {
    for (unsigned thread = threads; thread-- > 0;) f(thread);
  } else {
    for (unsigned thread = 0; thread < threads; ++thread) f(thread);
  }
}

/// Device memory may be touched and subnormals are zero while one of these lives, as in a kernel.
class DeviceMode {
 public:
  DeviceMode();
  ~DeviceMode();
  DeviceMode(const DeviceMode&) = delete;
  DeviceMode& operator=(const DeviceMode&) = delete;

 private:
  unsigned float_mode_;
  bool inside_;
};

template <class Body>
void run_grid(dim3 grid, unsigned threads, const Body& body) {
  if (Idle::active()) return;
  const DeviceMode mode;
  block_size = dim3(threads);
  const std::size_t blocks = std::size_t{grid.x} * grid.y * grid.z;
  for (std::size_t n = 0; n < blocks; ++n) {
    const std::size_t at = reversed ? blocks - 1 - n : n;
    block_index =
        dim3(static_cast<unsigned>(at % grid.x), static_cast<unsigned>(at / grid.x % grid.y),
             static_cast<unsigned>(at / grid.x / grid.y));
    body();
  }
}

}  // namespace fulgur::kernels::emulation

#define blockIdx (::fulgur::kernels::emulation::block_index)
#define blockDim (::fulgur::kernels::emulation::block_size)
