// Memory of one GPU: taken from the driver in large chunks and handed out in pieces, so that
// nothing on the way of a token calls cudaMalloc. One instance a device and process, shared by the
// backends of that device. Any thread.
#pragma once

#include <cuda_runtime_api.h>

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

/// The GPU has not so much memory left.
class OutOfDeviceMemory : public std::bad_alloc {
 public:
  explicit OutOfDeviceMemory(std::string message) : message_(std::move(message)) {}
  const char* what() const noexcept override { return message_.c_str(); }

 private:
  std::string message_;
};

/// Throws CudaFailure unless `status` is success.
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

  /// Streams whose kernels use this memory: what is given back waits for them.
  void add_stream(cudaStream_t stream);
  void remove_stream(cudaStream_t stream);

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
  std::byte* ask_driver(std::size_t bytes);
  void give_back(std::byte* start);
  void wait_for_streams();
  void free_alone(std::byte* start);

  const int device_;
  std::mutex streams_mutex_;
  std::vector<cudaStream_t> streams_;
  mutable std::mutex mutex_;
  std::vector<Chunk> chunks_;
  std::vector<Chunk> alone_;
  Pieces pieces_;
  std::size_t free_bytes_ = 0;
};

}  // namespace fulgur::kernels::cuda
