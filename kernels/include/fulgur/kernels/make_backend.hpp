// The choice of a backend by name, as flags give it.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "kernels/include/fulgur/kernels/backend.hpp"

namespace fulgur::kernels {

struct BackendOptions {
  std::string kind = "cpu";  ///< cpu | cuda
  Precision precision = Precision::bf16;
  std::uint32_t threads = 1;   ///< cpu
  std::vector<int> cpus = {};  ///< cpu
  std::string isa = "auto";    ///< cpu: the best the machine has, or as in CpuOptions
  int device = 0;              ///< cuda
  CudaFamily family = CudaFamily::automatic;
  ModelShape shape = {};
  ExpertWeights expert_weights = ExpertWeights::bf16;  ///< fp8: cuda, and a shape that fits sm90
  std::size_t graphs_max = kGraphsMax;                 ///< cuda, see CudaOptions
  Sums sums = Sums::fixed;                             ///< free: cuda, to measure with
};

/// One line saying why not: an unknown kind, or what make_cpu_backend() and make_cuda_backend()
/// say.
Result<std::unique_ptr<Backend>> make_backend(const BackendOptions& options);

}  // namespace fulgur::kernels
