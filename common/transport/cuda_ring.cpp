#include "common/transport/cuda_ring.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstring>

namespace fulgur::transport {
namespace {

constexpr std::size_t kPage = 4096;
constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
/// Between two looks at the device's health while nothing completes.
constexpr unsigned kLooksPerQuery = 1024;

CUmemAllocationProp properties(int device) {
  CUmemAllocationProp properties{};
  properties.type = CU_MEM_ALLOCATION_TYPE_PINNED;
  properties.requestedHandleTypes = CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR;
  properties.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  properties.location.id = device;
  return properties;
}

Status failed(const char* what) {
  return error(Code::unavailable, "{}: {}", what, std::strerror(errno));
}

class CudaInboxChannel final : public GpuChannel {
 public:
  explicit CudaInboxChannel(std::unique_ptr<FlagPage> flag) : flag_(std::move(flag)) {}

  Result<bool> idle() override { return true; }
  Status start(const GpuTransfer&) override { return {Code::internal, "an inbox starts nothing"}; }
  Result<std::uint64_t> completed() override { return flag_->load(); }
  void abort() override { aborted_ = true; }
  /// What the peer still writes goes to memory that its own mapping keeps.
  bool stopped() override { return aborted_; }

 private:
  std::unique_ptr<FlagPage> flag_;
  bool aborted_ = false;
};

class CudaOutboxChannel final : public GpuChannel {
 public:
  CudaOutboxChannel(const CudaDriver& driver, CudaStream stream, std::shared_ptr<MappedMemory> ring,
                    std::size_t ring_bytes, std::unique_ptr<FlagPage> flag, CUdeviceptr counter)
      : driver_(driver),
        ring_(std::move(ring)),
        ring_bytes_(ring_bytes),
        flag_(std::move(flag)),
        counter_(counter),
        stream_(std::move(stream)) {}

  Result<bool> idle() override { return true; }

  Status start(const GpuTransfer& transfer) override {
    if (transfer.offset > ring_bytes_ || transfer.bytes > ring_bytes_ - transfer.offset) {
      return {Code::internal, "a copy past the peer's ring"};
    }
    FULGUR_RETURN_IF_ERROR(stream_.wait_for(transfer.ready));
    FULGUR_RETURN_IF_ERROR(check(cudaMemcpyAsync(ring_->data() + transfer.offset, transfer.source,
                                                 transfer.bytes, cudaMemcpyDefault, stream_.get()),
                                 "cudaMemcpyAsync"));
    // With the default flags this write waits for the copy to be visible to the whole system.
    return check(driver_.write_value(stream_.get(), counter_, ++started_, 0),
                 "cuStreamWriteValue64");
  }

  Result<std::uint64_t> completed() override {
    const std::uint64_t done = flag_->load();
    if (done != seen_) {
      seen_ = done;
      looks_ = 0;
    } else if (++looks_ % kLooksPerQuery == 0) {
      FULGUR_RETURN_IF_ERROR(stream_.failure());
    }
    return done;
  }

  void abort() override { aborted_ = true; }
  /// Copies end by themselves, whatever has become of the peer.
  bool stopped() override { return aborted_ && stream_.drained(); }

 private:
  const CudaDriver driver_;
  std::shared_ptr<MappedMemory> ring_;
  const std::size_t ring_bytes_;
  std::unique_ptr<FlagPage> flag_;
  const CUdeviceptr counter_;
  CudaStream stream_;
  std::uint64_t started_ = 0;
  std::uint64_t seen_ = 0;
  unsigned looks_ = 0;
  bool aborted_ = false;
};

}  // namespace

// ---------------------------------------------------------------- memory

Result<std::size_t> MappedMemory::rounded(const CudaDriver& driver, int device, std::size_t bytes) {
  const CUmemAllocationProp wanted = properties(device);
  std::size_t unit = 0;
  FULGUR_RETURN_IF_ERROR(
      check(driver.granularity(&unit, &wanted, CU_MEM_ALLOC_GRANULARITY_RECOMMENDED),
            "cuMemGetAllocationGranularity"));
  return (bytes + unit - 1) / unit * unit;
}

Result<std::shared_ptr<MappedMemory>> MappedMemory::make(const CudaDriver& driver, int device,
                                                         std::size_t bytes, UniqueFd& exported) {
  const CUmemAllocationProp wanted = properties(device);
  CUmemGenericAllocationHandle handle = 0;
  FULGUR_RETURN_IF_ERROR(check(driver.create(&handle, bytes, &wanted, 0), "cuMemCreate"));
  std::shared_ptr<MappedMemory> memory(new MappedMemory(driver, bytes));
  int fd = -1;
  Status status = memory->map(handle, device);
  if (status.is_ok()) {
    status = check(driver.export_handle(&fd, handle, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR, 0),
                   "cuMemExportToShareableHandle");
  }
  driver.release(handle);  // the mapping keeps the memory
  FULGUR_RETURN_IF_ERROR(status);
  exported = UniqueFd(fd);
  return memory;
}

Result<std::shared_ptr<MappedMemory>> MappedMemory::open(const CudaDriver& driver, int device,
                                                         std::size_t bytes, int fd) {
  CUmemGenericAllocationHandle handle = 0;
  void* as_handle = reinterpret_cast<void*>(static_cast<std::intptr_t>(fd));
  FULGUR_RETURN_IF_ERROR(
      check(driver.import_handle(&handle, as_handle, CU_MEM_HANDLE_TYPE_POSIX_FILE_DESCRIPTOR),
            "cuMemImportFromShareableHandle"));
  std::shared_ptr<MappedMemory> memory(new MappedMemory(driver, bytes));
  const Status status = memory->map(handle, device);
  driver.release(handle);
  FULGUR_RETURN_IF_ERROR(status);
  return memory;
}

/// Maps all of the allocation for this process's device, wherever it lies.
Status MappedMemory::map(CUmemGenericAllocationHandle handle, int device) {
  FULGUR_RETURN_IF_ERROR(check(driver_.reserve(&address_, bytes_, 0, 0, 0), "cuMemAddressReserve"));
  FULGUR_RETURN_IF_ERROR(check(driver_.map(address_, bytes_, 0, handle, 0), "cuMemMap"));
  mapped_ = true;
  CUmemAccessDesc access{};
  access.location.type = CU_MEM_LOCATION_TYPE_DEVICE;
  access.location.id = device;
  access.flags = CU_MEM_ACCESS_FLAGS_PROT_READWRITE;
  return check(driver_.set_access(address_, bytes_, &access, 1), "cuMemSetAccess");
}

MappedMemory::~MappedMemory() {
  if (mapped_) driver_.unmap(address_, bytes_);
  if (address_ != 0) driver_.unreserve(address_, bytes_);
}

// ---------------------------------------------------------------- flag

Result<std::unique_ptr<FlagPage>> FlagPage::make(UniqueFd& shared) {
  UniqueFd file(memfd_create("fulgur-gpu-flag", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!file || ftruncate(file.get(), kPage) != 0 || fcntl(file.get(), F_ADD_SEALS, kSeals) != 0) {
    return failed("cannot make a flag page");
  }
  auto flag = map(file.get());
  if (flag.is_ok()) shared = std::move(file);
  return flag;
}

/// Sealed, so that nobody can take the page away under the mapping.
Result<std::unique_ptr<FlagPage>> FlagPage::open(int fd) {
  struct stat file {};
  if (fstat(fd, &file) != 0 || file.st_size != static_cast<off_t>(kPage) ||
      fcntl(fd, F_GET_SEALS) != kSeals) {
    return Status{Code::data_loss, "that is no flag page"};
  }
  return map(fd);
}

Result<std::unique_ptr<FlagPage>> FlagPage::map(int fd) {
  void* page = mmap(nullptr, kPage, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (page == MAP_FAILED) return failed("cannot map a flag page");
  return std::unique_ptr<FlagPage>(new FlagPage(page));
}

FlagPage::~FlagPage() {
  if (registered_) cudaHostUnregister(page_);
  munmap(page_, kPage);
}

std::uint64_t FlagPage::load() const {
  return std::atomic_ref(*static_cast<std::uint64_t*>(page_)).load(std::memory_order_acquire);
}

Result<CUdeviceptr> FlagPage::on_device() {
  FULGUR_RETURN_IF_ERROR(
      check(cudaHostRegister(page_, kPage, cudaHostRegisterMapped | cudaHostRegisterPortable),
            "cudaHostRegister"));
  registered_ = true;
  void* address = nullptr;
  FULGUR_RETURN_IF_ERROR(
      check(cudaHostGetDevicePointer(&address, page_, 0), "cudaHostGetDevicePointer"));
  return reinterpret_cast<CUdeviceptr>(address);
}

// ---------------------------------------------------------------- both ends

Result<GpuInbox> make_cuda_inbox(const CudaDriver& driver, int device, std::size_t bytes,
                                 std::vector<UniqueFd>& shared) {
  FULGUR_ASSIGN_OR_RETURN(const std::size_t size, MappedMemory::rounded(driver, device, bytes));
  UniqueFd memory_fd;
  UniqueFd flag_fd;
  FULGUR_ASSIGN_OR_RETURN(auto memory, MappedMemory::make(driver, device, size, memory_fd));
  FULGUR_ASSIGN_OR_RETURN(auto flag, FlagPage::make(flag_fd));
  shared.push_back(std::move(memory_fd));
  shared.push_back(std::move(flag_fd));
  GpuInbox inbox;
  inbox.ring = {memory, memory->data()};
  inbox.channel = std::make_unique<CudaInboxChannel>(std::move(flag));
  return inbox;
}

Result<std::unique_ptr<GpuChannel>> open_cuda_outbox(const CudaDriver& driver, int device,
                                                     std::size_t bytes,
                                                     const std::vector<UniqueFd>& shared) {
  if (shared.size() != 2) return Status{Code::data_loss, "a ring is two descriptors"};
  FULGUR_ASSIGN_OR_RETURN(const std::size_t size, MappedMemory::rounded(driver, device, bytes));
  FULGUR_ASSIGN_OR_RETURN(auto memory, MappedMemory::open(driver, device, size, shared[0].get()));
  FULGUR_ASSIGN_OR_RETURN(auto flag, FlagPage::open(shared[1].get()));
  FULGUR_ASSIGN_OR_RETURN(const CUdeviceptr counter, flag->on_device());
  FULGUR_ASSIGN_OR_RETURN(CudaStream stream, CudaStream::make());
  return std::unique_ptr<GpuChannel>(std::make_unique<CudaOutboxChannel>(
      driver, std::move(stream), std::move(memory), bytes, std::move(flag), counter));
}

}  // namespace fulgur::transport
