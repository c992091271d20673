// The CUDA backend on the emulated GPU: for tests.
#pragma once

#include "kernels/include/fulgur/kernels/backend.hpp"

namespace fulgur::kernels {

/// As make_cuda_backend(), on emulation::machine(); the family is always portable.
Result<std::unique_ptr<Backend>> make_emulated_cuda_backend(const CudaOptions& options);

}  // namespace fulgur::kernels
