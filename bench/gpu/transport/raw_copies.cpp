// What the bytes of a round trip cost without any protocol: one copy out and one back between two
// GPUs, and the same through pinned host memory.
#include <cuda_runtime_api.h>

#include <algorithm>
#include <functional>

#include "bench/gpu/transport/gpu_transport.hpp"
#include "common/base/clock.hpp"

namespace fulgur::bench {
namespace {

struct Buffers {
  void* near = nullptr;
  void* far = nullptr;
  void* host = nullptr;
  cudaStream_t stream = nullptr;

  bool make(int from, int to, std::size_t bytes) {
    int reaches = 0;
    cudaDeviceCanAccessPeer(&reaches, from, to);
    const bool made = cudaSetDevice(to) == cudaSuccess && cudaMalloc(&far, bytes) == cudaSuccess &&
                      cudaSetDevice(from) == cudaSuccess &&
                      cudaMalloc(&near, bytes) == cudaSuccess &&
                      cudaHostAlloc(&host, bytes, cudaHostAllocPortable) == cudaSuccess &&
                      cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess;
    if (made && reaches != 0) (void)cudaDeviceEnablePeerAccess(to, 0);
    return made;
  }
  ~Buffers() {
    cudaFree(near);
    cudaFree(far);
    cudaFreeHost(host);
    if (stream != nullptr) cudaStreamDestroy(stream);
  }
};

GpuTransportRow timed(const char* name, std::uint32_t tokens, std::uint64_t bytes,
                      const std::function<void()>& body, cudaStream_t stream) {
  GpuTransportRow row{name, "raw", tokens, bytes, 0, 0, 0, ""};
  const RealClock clock;
  std::vector<double> times;
  const int rounds = bytes > (64U << 20) ? 30 : 300;
  for (int at = 0; at < rounds + 10; ++at) {
    const Nanoseconds begin = clock.now();
    body();
    cudaStreamSynchronize(stream);
    if (at >= 10) times.push_back(static_cast<double>(clock.now() - begin) / kMicrosecond);
  }
  const cudaError_t failure = cudaGetLastError();
  if (failure != cudaSuccess) row.note = cudaGetErrorString(failure);
  std::sort(times.begin(), times.end());
  row.p50_us = times[times.size() / 2];
  row.p99_us = times[times.size() * 99 / 100];
  row.gb_per_s = static_cast<double>(bytes) / row.p50_us / 1e3;
  return row;
}

}  // namespace

std::vector<GpuTransportRow> bench_raw_copies(int from, int to,
                                              const std::vector<std::uint32_t>& tokens) {
  std::vector<GpuTransportRow> rows;
  const std::size_t largest = 2 * std::ranges::max(tokens) * kRowBytes;
  Buffers buffers;
  if (!buffers.make(from, to, largest)) {
    rows.push_back({"peer_copy", "raw", 0, 0, 0, 0, 0, cudaGetErrorString(cudaGetLastError())});
    return rows;
  }
  for (const std::uint32_t count : tokens) {
    const std::size_t out = count * kRowBytes;
    const cudaStream_t stream = buffers.stream;
    rows.push_back(timed(
        "peer_copy", count, 3 * out,
        [&] {
          cudaMemcpyPeerAsync(buffers.far, to, buffers.near, from, out, stream);
          cudaMemcpyPeerAsync(buffers.near, from, buffers.far, to, 2 * out, stream);
        },
        stream));
    rows.push_back(timed(
        "peer_copy_one_way", count, out,
        [&] { cudaMemcpyPeerAsync(buffers.far, to, buffers.near, from, out, stream); }, stream));
    rows.push_back(timed(
        "pinned_copy", count, 3 * out,
        [&] {
          cudaMemcpyAsync(buffers.host, buffers.near, out, cudaMemcpyDefault, stream);
          cudaMemcpyAsync(buffers.far, buffers.host, out, cudaMemcpyDefault, stream);
          cudaMemcpyAsync(buffers.host, buffers.far, 2 * out, cudaMemcpyDefault, stream);
          cudaMemcpyAsync(buffers.near, buffers.host, 2 * out, cudaMemcpyDefault, stream);
        },
        stream));
  }
  return rows;
}

}  // namespace fulgur::bench
