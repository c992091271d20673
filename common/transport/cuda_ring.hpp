// The peer carrier: a ring in one GPU's memory that a process on another GPU of the host maps and
// copies into, and a page of host memory beside it with the number of copies that are over, which
// the copying stream writes behind each of them. So a receiver learns of a tensor without a call
// into CUDA and without its sender's help.
//
// The ring is an allocation of the driver's, passed as a file descriptor and counted by reference:
// it outlives whichever process dies first, so a copy never meets memory that is gone.
#pragma once

#include <memory>
#include <vector>

#include "common/transport/cuda_driver.hpp"
#include "common/transport/fd_port.hpp"
#include "common/transport/gpu_api.hpp"

namespace fulgur::transport {

/// Device memory mapped into this process, its own or another one's. Unmapped with its owner.
class MappedMemory {
 public:
  /// Bytes rounded up to what the driver maps at once.
  static Result<std::size_t> rounded(const CudaDriver& driver, int device, std::size_t bytes);
  static Result<std::shared_ptr<MappedMemory>> make(const CudaDriver& driver, int device,
                                                    std::size_t bytes, UniqueFd& exported);
  static Result<std::shared_ptr<MappedMemory>> open(const CudaDriver& driver, int device,
                                                    std::size_t bytes, int fd);
  ~MappedMemory();
  MappedMemory(const MappedMemory&) = delete;
  MappedMemory& operator=(const MappedMemory&) = delete;

  std::byte* data() const { return reinterpret_cast<std::byte*>(address_); }

 private:
  MappedMemory(const CudaDriver& driver, std::size_t bytes) : driver_(driver), bytes_(bytes) {}
  Status map(CUmemGenericAllocationHandle handle, int device);

  const CudaDriver driver_;
  const std::size_t bytes_;
  CUdeviceptr address_ = 0;
  bool mapped_ = false;
};

/// A page of host memory of two processes with one counter.
class FlagPage {
 public:
  static Result<std::unique_ptr<FlagPage>> make(UniqueFd& shared);
  static Result<std::unique_ptr<FlagPage>> open(int fd);
  ~FlagPage();
  FlagPage(const FlagPage&) = delete;
  FlagPage& operator=(const FlagPage&) = delete;

  std::uint64_t load() const;
  /// Where this process's GPU writes the counter.
  Result<CUdeviceptr> on_device();

 private:
  explicit FlagPage(void* page) : page_(page) {}
  static Result<std::unique_ptr<FlagPage>> map(int fd);

  void* page_;
  bool registered_ = false;
};

/// Makes a ring for one peer and what it needs to write to it: descriptors of memory and flag.
Result<GpuInbox> make_cuda_inbox(const CudaDriver& driver, int device, std::size_t bytes,
                                 std::vector<UniqueFd>& shared);
Result<std::unique_ptr<GpuChannel>> open_cuda_outbox(const CudaDriver& driver, int device,
                                                     std::size_t bytes,
                                                     const std::vector<UniqueFd>& shared);

}  // namespace fulgur::transport
