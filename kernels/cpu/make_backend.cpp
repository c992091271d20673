// Choice of the instruction set at run time.
#include <string>

#include "kernels/cpu/cpu_backend.hpp"

namespace fulgur::kernels {
namespace {

struct Isa {
  const char* name;
  bool available;
  const cpu::KernelTable& (*table)();
};

/// Best first. The compiler's cpu model covers what the operating system saves on a switch, too.
std::vector<Isa> known_isas() {
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512dq");
  const bool bf16 = avx512 && __builtin_cpu_supports("avx512bf16");
  return {{"avx512bf16", bf16, cpu::avx512bf16_kernels},
          {"avx512", avx512, cpu::avx512_kernels},
          {"avx2", avx2, cpu::avx2_kernels}};
}

}  // namespace

const cpu::KernelTable* cpu::best_kernels() {
  for (const Isa& isa : known_isas()) {
    if (isa.available) return &isa.table();
  }
  return nullptr;
}

Result<std::unique_ptr<Backend>> make_cpu_backend(const CpuOptions& options) {
  if (options.threads < 1) {
    return error(Code::invalid_argument, "cpu backend: threads must be at least 1");
  }
  bool known = options.isa.empty();
  for (const Isa& isa : known_isas()) {
    if (!options.isa.empty() && options.isa != isa.name) continue;
    known = true;
    if (!isa.available) continue;
    return Result<std::unique_ptr<Backend>>(
        std::make_unique<cpu::CpuBackend>(isa.table(), options));
  }
  if (!known) {
    return error(Code::invalid_argument,
                 "cpu backend: unknown isa \"{}\"; avx512bf16, avx512 and avx2 exist", options.isa);
  }
  if (!options.isa.empty()) {
    return error(Code::failed_precondition, "cpu backend: this machine has no {}", options.isa);
  }
  return error(Code::failed_precondition, "cpu backend: this machine lacks AVX2 and FMA");
}

}  // namespace fulgur::kernels
