// Shards and workers on GPUs that talk over DeviceTransports: the CUDA backend of the test binary,
// whose memory a fake fabric moves with delays, by every carrier. Tokens are the CPU's, bit for
// bit, also between processes with a GPU and without, and when workers die with dispatches under
// way.
#include <gtest/gtest.h>

#include <deque>

#include "common/transport/device_transport.hpp"
#include "tests/support/device_backend.hpp"
#include "tests/unit/attention/exact_requests.hpp"
#include "tests/unit/transport/fake_gpu.hpp"

namespace fulgur {
namespace {

using transport::DeviceCarrier;
using Carriers = std::vector<DeviceCarrier>;

constexpr std::size_t kStep = FULGUR_TEST_CUDA == 1 ? 5 : 1;

/// GPUs of one backend's memory for all processes of a mesh.
class Gpus {
 public:
  explicit Gpus(Carriers carriers)
      : backend(test::make_device_backend(kernels::Precision::bf16, false).value()),
        fabric(7, {}, memory_of(*backend)),
        carriers_(std::move(carriers)) {}

  mesh::LocalGpu of(const std::string& host) {
    gpus_.emplace_back(fabric, host);
    transport::FakeGpu& gpu = gpus_.back();
    mesh::LocalGpu local;
    local.identity = gpu.identity();
    local.pool = std::make_shared<BufferPool>(std::size_t{64} << 20, test::device_blocks(*backend));
    local.wrap = [this, &gpu](std::unique_ptr<transport::Transport> inner) {
      transport::DeviceOptions options;
      options.carriers = carriers_;
      options.window_bytes = std::uint64_t{2} << 20;
      return std::make_unique<transport::DeviceTransport>(std::move(inner), gpu, options, clock);
    };
    return local;
  }

  RealClock clock;
  std::unique_ptr<kernels::Backend> backend;
  transport::FakeFabric fabric;

 private:
  static transport::FakeMemory memory_of(kernels::Backend& backend) {
    return {[&](std::size_t bytes) { return backend.allocate(bytes); },
            [&](std::byte* device, const void* host, std::size_t bytes) {
              backend.upload(device, host, bytes);
            },
            [&](void* host, const std::byte* device, std::size_t bytes) {
              backend.download(host, device, bytes);
            }};
  }

  const Carriers carriers_;
  std::deque<transport::FakeGpu> gpus_;
};

mesh::LocalMeshOptions on(Gpus& gpus) {
  auto options = plain(Dtype::bf16);
  options.workers = 2;
  options.scheduler.lanes = 2;
  options.scheduler.lane_rows_min = 1;
  options.scheduler.batch_tokens = 64;
  options.gpu = [&gpus](const std::string&) { return gpus.of("host"); };
  options.on_step = [&gpus] { gpus.fabric.step(); };
  return options;
}

/// Submits every kStep-th request; returns their ids by number.
std::map<std::size_t, std::uint64_t> submit_some(mesh::LocalMesh& mesh) {
  std::map<std::size_t, std::uint64_t> ids;
  for (std::size_t at = 0; at < kRequests; at += kStep) ids[at] = mesh.submit(requests()[at]);
  return ids;
}

void expect_cpu_answers(const mesh::LocalMesh& mesh,
                        const std::map<std::size_t, std::uint64_t>& ids) {
  for (const auto& [at, id] : ids) {
    expect_same(mesh.generation(id), yardstick(Dtype::bf16)[at], at);
  }
}

/// Runs the requests on a mesh; returns how many tensors went from device to device.
std::uint64_t expect_the_cpus_tokens(Gpus& gpus, mesh::LocalMeshOptions options) {
  auto mesh = mesh::LocalMesh::start(tiny(), *gpus.backend, gpus.clock, std::move(options)).value();
  const std::uint64_t before = gpus.fabric.transfers;
  const auto ids = submit_some(*mesh);
  EXPECT_TRUE(mesh->run());
  expect_cpu_answers(*mesh, ids);
  const std::uint64_t transfers = gpus.fabric.transfers - before;
  mesh.reset();
  EXPECT_EQ(gpus.fabric.violations, std::vector<std::string>{});
  EXPECT_EQ(gpus.fabric.live_blocks, 0U);
  return transfers;
}

class DeviceMesh : public testing::TestWithParam<Carriers> {};

TEST_P(DeviceMesh, TokensAreTheCpus) {
  Gpus gpus(GetParam());
  const std::uint64_t transfers = expect_the_cpus_tokens(gpus, on(gpus));
  if (GetParam().empty()) {
    EXPECT_EQ(transfers, 0U);
  } else {
    EXPECT_GT(transfers, 100U);
  }
}

INSTANTIATE_TEST_SUITE_P(Carriers, DeviceMesh,
                         testing::Values(Carriers{DeviceCarrier::peer},
                                         Carriers{DeviceCarrier::nccl}, Carriers{}),
                         [](const auto& info) {
                           return std::string(info.param.empty() ? "none"
                                                                 : to_string(info.param[0]));
                         });

// Rows that came in host memory and rows that came in the device's meet in one run.
TEST(MixedDeviceMesh, ProcessesWithoutAGpuTakePart) {
  for (const std::string without : {"attention-0", "expert-0"}) {
    Gpus gpus({DeviceCarrier::peer});
    auto options = on(gpus);
    options.shards = 2;
    options.gpu = [&gpus, without](const std::string& name) {
      return name == without ? mesh::LocalGpu{} : gpus.of("host");
    };
    auto mesh = mesh::LocalMesh::start(tiny(), *gpus.backend, gpus.clock, options).value();
    const std::uint64_t before = gpus.fabric.transfers;
    std::map<std::size_t, std::uint64_t> ids;
    for (std::size_t at = 0; at < kRequests; at += kStep) {
      ids[at] = mesh->submit(requests()[at], static_cast<std::uint32_t>(ids.size() % 2));
    }
    EXPECT_TRUE(mesh->run());
    expect_cpu_answers(*mesh, ids);
    EXPECT_GT(gpus.fabric.transfers, before) << without;
  }
}

// A GPU that has blocks for every other tensor only: the rest goes through host memory.
TEST(ShortDeviceMesh, RowsTravelThroughHostMemoryWhereTheirPoolHasNone) {
  Gpus gpus({DeviceCarrier::peer});
  auto options = on(gpus);
  std::uint64_t refused = 0;
  options.gpu = [&](const std::string&) {
    mesh::LocalGpu local = gpus.of("host");
    BlockSource blocks = test::device_blocks(*gpus.backend);
    const auto allocate = [&refused, give = blocks.allocate,
                           turn = std::uint64_t{0}](std::size_t bytes) mutable -> void* {
      return ++turn % 2 == 0 ? (++refused, nullptr) : give(bytes);
    };
    local.pool = std::make_shared<BufferPool>(0, BlockSource{blocks.kind, allocate, blocks.free});
    return local;
  };
  EXPECT_GT(expect_the_cpus_tokens(gpus, options), 100U);
  EXPECT_GT(refused, 100U);
}

TEST(DyingDeviceMesh, WorkersDieInMidDispatchAndNoTokenChanges) {
  std::uint64_t retries = 0;
  for (const DeviceCarrier carrier : {DeviceCarrier::peer, DeviceCarrier::nccl}) {
    Gpus gpus({carrier});
    auto mesh = mesh::LocalMesh::start(tiny(), *gpus.backend, gpus.clock, on(gpus)).value();
    const auto ids = submit_some(*mesh);
    std::uint32_t victim = 0;
    for (const std::uint64_t tokens : {3U, 20U}) {
      attention::Shard& shard = mesh->shard(0);
      const auto generated = [&] { return shard.engine->stats().generated_tokens_total; };
      for (int pass = 0; pass < 1'000'000 && generated() < tokens; ++pass) mesh->step();
      const std::uint64_t sent = shard.dispatch_stats.dispatches_total;
      for (int pass = 0; pass < 1'000 && shard.dispatch_stats.dispatches_total == sent; ++pass) {
        mesh->step();
      }
      mesh->kill_worker(victim);
      for (int pass = 0; pass < 200; ++pass) mesh->step();
      ASSERT_TRUE(mesh->start_worker(victim).is_ok());
      for (int pass = 0; pass < 2'000; ++pass) mesh->step();
      victim = 1 - victim;
    }
    EXPECT_TRUE(mesh->run());
    expect_cpu_answers(*mesh, ids);
    retries += mesh->shard(0).dispatch_stats.retries_total;
    EXPECT_EQ(mesh->shard(0).dispatch_stats.workers_lost_total, 2U);
    mesh.reset();
    EXPECT_EQ(gpus.fabric.violations, std::vector<std::string>{});
    EXPECT_EQ(gpus.fabric.live_blocks, 0U);
  }
  EXPECT_GT(retries, 0U) << "no worker died with a dispatch under way";
}

}  // namespace
}  // namespace fulgur
