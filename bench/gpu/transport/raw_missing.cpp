// Stands for raw_copies.cpp in builds without CUDA.
#include "bench/gpu/transport/gpu_transport.hpp"

namespace fulgur::bench {

std::vector<GpuTransportRow> bench_raw_copies(int, int, const std::vector<std::uint32_t>&) {
  return {{"peer_copy", "raw", 0, 0, 0, 0, 0, "this program was built without CUDA"}};
}

}  // namespace fulgur::bench
