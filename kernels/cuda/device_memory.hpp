// Memory of one GPU: taken from the driver in large chunks and handed out in pieces, so that
// nothing on the way of a token calls cudaMalloc. One instance a device and process, shared by the
// backends of that device. Any thread.
#pragma once

#include <cuda_runtime_api.h>

#include <atomic>
#include <cstddef>
#include <map>
#include <memory>
#include <mutex>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

namespace fulgur::kernels::cuda {

/// A call of the CUDA runtime failed; the message names the call.
class CudaFailure : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// The GPU, or the host where memory is pinned, has not so much left. The device is as it was:
/// whoever catches it may go on.
class OutOfDeviceMemory : public std::bad_alloc {
 public:
  explicit OutOfDeviceMemory(std::string message) : message_(std::move(message)) {}
  const char* what() const noexcept override { return message_.c_str(); }

 private:
  std::string message_;
};

/// Throws OutOfDeviceMemory when `status` says that memory was refused, CudaFailure when it is any
/// other failure.
void check(cudaError_t status, const char* what);

class DeviceMemory : public std::enable_shared_from_this<DeviceMemory> {
 public:
  /// The memory of a device of this process; the only way to make one.
  static std::shared_ptr<DeviceMemory> of(int device);

  explicit DeviceMemory(int device) : device_(device) {}
  ~DeviceMemory();
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;

  /// At least `bytes`, 512-byte aligned, contents undefined. Throws OutOfDeviceMemory.
  std::shared_ptr<std::byte> take(std::size_t bytes);
  /// The same as an allocation of its own: slow, for tests.
  std::shared_ptr<std::byte> take_alone(std::size_t bytes);

  /// Gives chunks of which nothing is in use back to the driver, where they join. That may wait for
  /// all that runs on the device, a receive of NCCL's among it: before serving only.
  void trim();
  /// Whether take() may do the same when it would fail otherwise.
  void let_take_trim(bool may) { take_trims_.store(may); }

  /// Streams whose kernels use this memory: what is given back waits for them.
  void add_stream(cudaStream_t stream);
  void remove_stream(cudaStream_t stream);
  /// While it is held nobody waits for these streams, and memory that is given back waits for it.
  /// Not held: somebody waits just now.
  std::unique_lock<std::mutex> try_to_stop_waits() {
    return std::unique_lock(streams_mutex_, std::try_to_lock);
  }

  /// Whether a pointer is into memory that was taken here.
  bool owns(const void* pointer) const;
  /// Whether it is into any memory of a GPU, e.g. a transport's. Asks the driver where owns() says
  /// no.
  bool reaches(const void* pointer) const;
  /// Free bytes in chunks and what the driver would still give.
  std::size_t available() const;
  int device() const { return device_; }

 private:
  struct Piece {
    std::size_t bytes = 0;
    std::size_t chunk = 0;
    bool free = true;
  };
  struct Chunk {
    std::byte* start = nullptr;
    std::size_t bytes = 0;
  };
  using Pieces = std::map<std::byte*, Piece>;

  std::byte* carve(std::size_t bytes);
  void add_chunk(std::size_t bytes);
  void free_idle_chunks();
  std::byte* ask_driver(std::size_t bytes);
  void give_back(std::byte* start);
  void wait_for_streams();
  void free_alone(std::byte* start);

  const int device_;
  std::mutex streams_mutex_;
  std::vector<cudaStream_t> streams_;
  mutable std::mutex mutex_;
  std::atomic<bool> take_trims_{false};
  std::vector<Chunk> chunks_;  ///< null and empty where one was given back
  std::vector<Chunk> alone_;
  Pieces pieces_;
  std::size_t free_bytes_ = 0;
};

}  // namespace fulgur::kernels::cuda
