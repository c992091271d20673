// Stands in for the CUDA backend in builds without it.
#include "kernels/include/fulgur/kernels/backend.hpp"

namespace fulgur::kernels {

Result<std::unique_ptr<Backend>> make_cuda_backend(const CudaOptions&) {
  return error(Code::failed_precondition,
               "cuda backend: built without CUDA; configure with -DFULGUR_CUDA=ON");
}

}  // namespace fulgur::kernels
