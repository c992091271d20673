#include "bench/gpu/transport/host_gpu.hpp"

#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>

#include <atomic>
#include <charconv>
#include <cstring>

#include "common/transport/fd_port.hpp"
#include "common/transport/shm_segment.hpp"

namespace fulgur::bench {
namespace {

using transport::DeviceCarrier;
using transport::FdPort;
using transport::GpuChannel;
using transport::GpuInbox;
using transport::GpuTransfer;
using transport::UniqueFd;

constexpr std::size_t kFlagBytes = 4096;

/// The ring, and behind it a page with the number of copies that are over.
class SharedRing {
 public:
  static Result<std::shared_ptr<SharedRing>> map(int fd, std::size_t bytes) {
    void* at = mmap(nullptr, bytes + kFlagBytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED) return Status{Code::unavailable, "cannot map a ring"};
    return std::shared_ptr<SharedRing>(new SharedRing(static_cast<std::byte*>(at), bytes));
  }
  ~SharedRing() { munmap(data_, bytes_ + kFlagBytes); }
  SharedRing(const SharedRing&) = delete;
  SharedRing& operator=(const SharedRing&) = delete;

  std::byte* data() const { return data_; }
  std::size_t bytes() const { return bytes_; }
  std::atomic_ref<std::uint64_t> flag() const {
    return std::atomic_ref(*reinterpret_cast<std::uint64_t*>(data_ + bytes_));
  }

 private:
  SharedRing(std::byte* data, std::size_t bytes) : data_(data), bytes_(bytes) {}
  std::byte* data_;
  std::size_t bytes_;
};

class HostChannel final : public GpuChannel {
 public:
  explicit HostChannel(std::shared_ptr<SharedRing> ring) : ring_(std::move(ring)) {}

  Result<bool> idle() override { return true; }
  Status start(const GpuTransfer& transfer) override {
    if (transfer.offset + transfer.bytes > ring_->bytes()) return {Code::internal, "past the ring"};
    std::memcpy(ring_->data() + transfer.offset, transfer.source, transfer.bytes);
    ring_->flag().fetch_add(1, std::memory_order_release);
    return Status::ok();
  }
  Result<std::uint64_t> completed() override { return ring_->flag().load(); }
  void abort() override { aborted_ = true; }
  bool stopped() override { return aborted_; }

 private:
  std::shared_ptr<SharedRing> ring_;
  bool aborted_ = false;
};

class HostGpu final : public transport::GpuApi {
 public:
  explicit HostGpu(std::unique_ptr<FdPort> port) : port_(std::move(port)) {}

  std::string identity() const override { return transport::host_identity() + ";" + port_->name(); }
  bool may_use(DeviceCarrier carrier, const std::string& theirs) const override {
    return carrier == DeviceCarrier::peer &&
           theirs.substr(0, theirs.find(';')) == transport::host_identity();
  }

  Result<GpuInbox> make_inbox(std::size_t bytes, const std::string& theirs) override {
    const UniqueFd file(memfd_create("fulgur-host-gpu", MFD_CLOEXEC));
    if (!file || ftruncate(file.get(), static_cast<off_t>(bytes + kFlagBytes)) != 0) {
      return Status{Code::resource_exhausted, "no memory for a ring"};
    }
    FULGUR_ASSIGN_OR_RETURN(auto ring, SharedRing::map(file.get(), bytes));
    std::uint64_t tag = 0;
    [[maybe_unused]] const auto got = getrandom(&tag, sizeof(tag), 0);
    const int fds[] = {file.get()};
    FULGUR_RETURN_IF_ERROR(port_->send(theirs.substr(theirs.find(';') + 1), tag, fds));
    GpuInbox inbox;
    inbox.ring = {ring, ring->data()};
    inbox.token = fmt::format("{:x}", tag);
    inbox.channel = std::make_unique<HostChannel>(std::move(ring));
    return inbox;
  }

  Result<std::unique_ptr<GpuChannel>> open_outbox(const std::string& token,
                                                  std::size_t bytes) override {
    std::uint64_t tag = 0;
    std::from_chars(token.data(), token.data() + token.size(), tag, 16);
    FULGUR_ASSIGN_OR_RETURN(const std::vector<UniqueFd> fds, port_->take(tag));
    FULGUR_ASSIGN_OR_RETURN(auto ring, SharedRing::map(fds[0].get(), bytes));
    return std::unique_ptr<GpuChannel>(std::make_unique<HostChannel>(std::move(ring)));
  }

  Result<std::string> make_id() override { return no_nccl(); }
  Result<std::unique_ptr<GpuChannel>> join(const std::string&, bool) override { return no_nccl(); }

  Result<std::shared_ptr<std::byte>> take(std::size_t bytes) override { return pool_.take(bytes); }
  Status upload(std::byte* device, const void* host, std::size_t bytes) override {
    std::memcpy(device, host, bytes);
    return Status::ok();
  }
  Status download(void* host, const std::byte* device, std::size_t bytes, void*) override {
    std::memcpy(host, device, bytes);
    return Status::ok();
  }

 private:
  static Status no_nccl() { return {Code::failed_precondition, "no GPU, no nccl"}; }

  std::unique_ptr<FdPort> port_;
  BufferPool pool_;
};

}  // namespace

Result<std::unique_ptr<transport::GpuApi>> open_host_gpu() {
  FULGUR_ASSIGN_OR_RETURN(std::unique_ptr<FdPort> port, FdPort::open());
  return std::unique_ptr<transport::GpuApi>(std::make_unique<HostGpu>(std::move(port)));
}

}  // namespace fulgur::bench
