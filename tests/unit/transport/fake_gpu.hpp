// GPUs and NCCL without either: a fabric that several FakeGpus share, on which transfers take as
// many steps as a seed says, read their source and write their target somewhere in between, and
// fail, hang or stop late where told. It keeps the books of memory: a block freed while a transfer
// may touch it is a violation, whether or not anything went wrong by it.
#pragma once

#include <cstdint>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "common/base/rng.hpp"
#include "common/transport/gpu_api.hpp"

namespace fulgur::transport {

/// Chances in a thousand, for each channel or call.
struct FakeFaults {
  std::uint64_t call_fails = 0;  ///< make_inbox, open_outbox, make_id, join, take, upload, download
  std::uint64_t start_fails = 0;  ///< of a channel: some transfer does not start
  std::uint64_t channel_dies =
      0;                    ///< of a channel: completed() and idle() fail from some transfer on
  std::uint64_t hangs = 0;  ///< of a channel: some transfer never ends
  std::uint64_t never_joins = 0;    ///< of a channel
  std::uint64_t damages_probe = 0;  ///< of a channel: its first transfer arrives damaged
  std::uint64_t steps_most = 4;     ///< of a transfer
  std::uint64_t abort_steps_most = 8;
};

class FakeChannel;

/// The memory of the fabric's GPUs, by default the host's. With a backend's, real kernels can read
/// and write what travels.
struct FakeMemory {
  std::function<std::shared_ptr<std::byte>(std::size_t bytes)> allocate = [](std::size_t bytes) {
    return std::shared_ptr<std::byte>(new std::byte[bytes], std::default_delete<std::byte[]>());
  };
  /// Between host memory and the GPU's.
  std::function<void(std::byte* device, const void* host, std::size_t bytes)> write =
      [](std::byte* device, const void* host, std::size_t bytes) {
        std::memcpy(device, host, bytes);
      };
  std::function<void(void* host, const std::byte* device, std::size_t bytes)> read =
      [](void* host, const std::byte* device, std::size_t bytes) {
        std::memcpy(host, device, bytes);
      };
};

class FakeFabric {
 public:
  FakeFabric(std::uint64_t seed, FakeFaults faults, FakeMemory memory = {})
      : faults(faults), memory(std::move(memory)), rng_(seed) {}

  /// Time passes on every device.
  void step();

  /// No faults from now on but those that have shown.
  void calm();

  std::shared_ptr<std::byte> allocate(std::size_t bytes);
  bool chance(std::uint64_t in_a_thousand) { return rng_.below(1000) < in_a_thousand; }
  std::uint64_t below(std::uint64_t bound) { return rng_.below(bound); }

  FakeFaults faults;
  const FakeMemory memory;
  std::size_t live_blocks = 0;
  std::uint64_t transfers = 0;  ///< that are over
  std::vector<std::string> violations;
  std::set<FakeChannel*> channels;
  std::size_t hanging = 0;  ///< transfers that will never end by themselves

  struct Ring {
    std::shared_ptr<std::byte> memory;
    std::size_t bytes = 0;
    std::uint64_t completed = 0;  ///< the flag in host memory
    bool opened = false;
  };
  std::map<std::string, std::weak_ptr<Ring>> rings;  ///< kept by their channels
  struct Pair {
    FakeChannel* sender = nullptr;
    FakeChannel* receiver = nullptr;
  };
  std::map<std::string, Pair> pairs;
  std::uint64_t next_name = 1;

 private:
  void fill(std::byte* block, std::size_t bytes, std::byte value) const;
  void check_free(const std::byte* block, std::size_t bytes);

  Rng rng_;
};

class FakeChannel final : public GpuChannel {
 public:
  enum class Kind { put, inbox, send, receive };

  FakeChannel(FakeFabric& fabric, Kind kind, std::string name);
  ~FakeChannel() override;

  Result<bool> idle() override;
  Status start(const GpuTransfer& transfer) override;
  Result<std::uint64_t> completed() override;
  void abort() override;
  bool stopped() override;

  void step();
  /// From now on completed() and idle() fail.
  void break_now() { broken_ = true; }
  void calm();
  /// Whether the device may touch [block, block + bytes).
  bool touches(const std::byte* block, std::size_t bytes) const;

 private:
  friend class FakeFabric;
  struct Running {
    GpuTransfer transfer;
    std::uint64_t steps = 0;
    bool hangs = false;
    bool half = false;
  };

  bool joined() const;
  void move_bytes(const Running& source, std::byte* target, bool last_half);

  FakeFabric& fabric_;
  const Kind kind_;
  const std::string name_;
  std::shared_ptr<FakeFabric::Ring> ring_;
  std::vector<Running> running_;  ///< in order; the first makes progress
  std::uint64_t started_ = 0;
  std::uint64_t completed_ = 0;
  std::uint64_t join_steps_;
  std::uint64_t fails_at_ = 0;  ///< transfer that does not start; 0: none
  std::uint64_t dies_at_ = 0;
  std::uint64_t hangs_at_ = 0;
  bool damages_ = false;
  bool broken_ = false;
  bool aborted_ = false;
  std::uint64_t abort_steps_ = 0;
};

class FakeGpu final : public GpuApi {
 public:
  FakeGpu(FakeFabric& fabric, std::string host) : fabric_(fabric), host_(std::move(host)) {}

  std::string identity() const override { return host_; }
  /// Equal hosts reach each other's memory; everybody has NCCL.
  bool may_use(DeviceCarrier carrier, const std::string& theirs) const override {
    return carrier == DeviceCarrier::nccl || theirs == host_;
  }
  Result<GpuInbox> make_inbox(std::size_t bytes, const std::string& theirs) override;
  Result<std::unique_ptr<GpuChannel>> open_outbox(const std::string& token,
                                                  std::size_t bytes) override;
  Result<std::string> make_id() override;
  Result<std::unique_ptr<GpuChannel>> join(const std::string& id, bool sends) override;
  Result<std::shared_ptr<std::byte>> take(std::size_t bytes) override;
  Status upload(std::byte* device, const void* host, std::size_t bytes) override;
  Status download(void* host, const std::byte* device, std::size_t bytes, void* ready) override;

 private:
  Status maybe_fail(const char* what);

  FakeFabric& fabric_;
  const std::string host_;
};

}  // namespace fulgur::transport
