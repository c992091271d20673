// The limits of this machine, measured: memory read bandwidth and multiply-add peaks. Benchmarks
// print their results as a part of these, measured in the same run.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/base/status.hpp"

namespace fulgur::kernels {

/// Medians of many short rounds and, beside two of them, the best round.
struct Roofline {
  double read_gb_s = 0;  ///< 10^9 bytes a second, all threads, from memory
  double read_best_gb_s = 0;
  double bf16_gf_s = 0;  ///< 10^9 operations a second of bf16 products (2 a multiply-add)
  double bf16_best_gf_s = 0;
  double f32_gf_s = 0;  ///< the same of float32 products
};

/// Measures with `threads` threads pinned to cpus (empty: not pinned); the caller is one of them, and
/// goes back to the CPUs it had.
/// isa: whose products; as CpuOptions has it.
/// Takes about a second and 256 MiB. Fails on a machine without AVX2 and FMA, or without the isa.
Result<Roofline> measure_roofline(std::uint32_t threads, const std::vector<int>& cpus,
                                  const std::string& isa);

/// CPUs this process may run on, in ascending order: what benchmarks pin to.
std::vector<int> allowed_cpus();

}  // namespace fulgur::kernels
