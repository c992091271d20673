// Dispatch and combine between processes on GPUs, over the transports the mesh uses: round trips,
// one-way bandwidth, every byte checked, and peers killed in the middle. Beside them what the same
// bytes cost as bare copies.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "common/base/status.hpp"
#include "common/transport/device_transport.hpp"

namespace fulgur::bench {

inline constexpr std::uint32_t kHidden = 6144;         ///< of M1
inline constexpr std::size_t kRowBytes = kHidden * 2;  ///< bf16

struct GpuTransportOptions {
  std::vector<int> devices = {0, 1};  ///< the shard's, then one for each worker
  std::vector<std::string> carriers = {"peer", "nccl", "none"};
  std::vector<std::uint32_t> tokens = {1, 16, 128, 1024, 8192};
  int rounds = 1000;  ///< round trips of a small size; fewer of large ones
  int kills = 5;      ///< workers killed in mid-transfer, for each carrier
  int nccl_blocks = 16;
  std::uint64_t window_bytes = std::uint64_t{128} << 20;  ///< at least; more where a size needs it
  std::uint64_t one_way_bytes = std::uint64_t{2} << 30;
};

struct GpuTransportRow {
  std::string name;  ///< carrier or contestant
  std::string what;  ///< "round_trip", "one_way", "killed", "raw"
  std::uint32_t tokens = 0;
  std::uint64_t bytes = 0;  ///< moved in one measurement, all directions and workers
  double p50_us = 0;
  double p99_us = 0;
  double gb_per_s = 0;
  std::string note;  ///< what went wrong; empty: all bytes were right
};

/// What a worker does with a dispatch; travels as its layer.
enum class GpuMode : std::uint32_t { echo = 0, check = 1, sink = 2 };

/// A worker process: serves until its parent ends. Returns the exit status.
int serve_gpu_worker(const std::string& endpoint, int device, const std::string& carrier,
                     std::uint64_t window_bytes, int nccl_blocks);

/// The shard's process: starts workers of this program and measures.
Result<std::vector<GpuTransportRow>> bench_gpu_transport(const GpuTransportOptions& options);

/// Bare copies of the same sizes: peer to peer, and through pinned memory.
std::vector<GpuTransportRow> bench_raw_copies(int from, int to,
                                              const std::vector<std::uint32_t>& tokens);

std::string to_table(const std::vector<GpuTransportRow>& rows);
std::string to_json(const std::vector<GpuTransportRow>& rows);

/// Pseudo-random words of a tensor.
std::vector<std::uint64_t> gpu_pattern(std::uint64_t seed, std::size_t bytes);

/// A transport of the mesh with one device carrier ("none": staging) on top.
struct GpuEnd {
  std::unique_ptr<transport::GpuApi> gpu;
  std::unique_ptr<BufferPool> pool;  ///< of device memory
  std::unique_ptr<transport::DeviceTransport> transport;
};
Result<GpuEnd> make_gpu_end(const std::string& name, const std::string& listen, int device,
                            const std::string& carrier, std::uint64_t window_bytes,
                            int nccl_blocks);

/// Into device memory: as it is, or copied there from the host memory a staged tensor came in.
Result<wire::Frame> on_device(GpuEnd& end, const wire::Frame& tensor);

}  // namespace fulgur::bench
