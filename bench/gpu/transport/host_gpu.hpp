// A GpuApi without a GPU, for rehearsals on any machine: "device" memory is ordinary memory, and
// the peer carrier's ring is memory that two processes map, passed as the real one is. Whatever is
// not CUDA runs as it does on GPUs: handshake, descriptors, credits, real processes and real
// deaths.
#pragma once

#include <memory>

#include "common/transport/gpu_api.hpp"

namespace fulgur::bench {

Result<std::unique_ptr<transport::GpuApi>> open_host_gpu();

}  // namespace fulgur::bench
