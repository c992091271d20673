// Stands for nccl_channel.cpp in builds with CUDA but without NCCL's headers.
#include "common/transport/nccl_channel.hpp"

namespace fulgur::transport {

int nccl_version() { return 0; }

Result<std::string> make_nccl_id() {
  return Status{Code::failed_precondition, "this program was built without NCCL"};
}

Result<std::unique_ptr<GpuChannel>> join_nccl(const std::string&, bool, int, int) {
  return Status{Code::failed_precondition, "this program was built without NCCL"};
}

}  // namespace fulgur::transport
