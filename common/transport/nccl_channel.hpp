// The nccl carrier: a communicator of two ranks for each direction of a link, so that a send never
// queues behind a receive that waits for the peer. Non-blocking throughout.
#pragma once

#include <memory>
#include <string>

#include "common/base/status.hpp"
#include "common/transport/gpu_api.hpp"

namespace fulgur::transport {

/// Version of the NCCL library found at run time; 0: none, or built without its headers. Peers must
/// have the same.
int nccl_version();

/// As in GpuApi.
Result<std::string> make_nccl_id();
Result<std::unique_ptr<GpuChannel>> join_nccl(const std::string& id, bool sends, int device,
                                              int blocks);

}  // namespace fulgur::transport
