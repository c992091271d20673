#include "kernels/include/fulgur/kernels/make_backend.hpp"

namespace fulgur::kernels {

Result<std::unique_ptr<Backend>> make_backend(const BackendOptions& options) {
  if (options.kind == "cpu") {
    if (options.expert_weights != ExpertWeights::bf16) {
      return error(Code::invalid_argument, "fp8 expert weights need backend cuda");
    }
    if (options.sums != Sums::fixed) {
      return error(Code::invalid_argument, "free sums need backend cuda");
    }
    return make_cpu_backend({options.precision, options.threads, options.cpus, options.isa});
  }
  if (options.kind == "cuda") {
    return make_cuda_backend({.precision = options.precision,
                              .device = options.device,
                              .family = options.family,
                              .shape = options.shape,
                              .expert_weights = options.expert_weights,
                              .sums = options.sums,
                              .graphs_max = options.graphs_max});
  }
  return error(Code::invalid_argument, "unknown backend \"{}\"; cpu and cuda exist", options.kind);
}

}  // namespace fulgur::kernels
