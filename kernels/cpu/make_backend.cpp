// Choice of the instruction set at run time.
#include <algorithm>
#include <string>

#include "common/base/clock.hpp"
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

/// Operations a second of a probe: the best of some short rounds, for another thread may disturb
/// one.
double rate(double (*probe)(std::size_t, float*)) {
  constexpr std::size_t kSteps = 2'000;  // of 16 vector operations: some 10 us
  constexpr int kRounds = 20;
  const RealClock clock;
  double best = 0;
  for (int round = 0; round < kRounds; ++round) {
    float sink = 1e-20F;
    const Nanoseconds start = clock.now();
    const double operations = probe(kSteps, &sink);
    best = std::max(
        best, operations / static_cast<double>(std::max<Nanoseconds>(clock.now() - start, 1)));
  }
  return best;
}

/// The first that is available; but some machines run vdpbf16ps at less than the rate of the two
/// fused multiply-adds it stands for (half of it on an Intel Xeon). There plain AVX-512 is faster,
/// and its bits are the same.
const cpu::KernelTable* choose_kernels() {
  const auto isas = known_isas();
  const auto first =
      std::find_if(isas.begin(), isas.end(), [](auto& isa) { return isa.available; });
  if (first == isas.end()) return nullptr;
  const cpu::KernelTable& table = first->table();
  if (table.product_bf16 == nullptr) return &table;
  return rate(table.probe_bf16) > rate(table.probe_fma) ? &table : &cpu::avx512_kernels();
}

}  // namespace

const cpu::KernelTable* cpu::best_kernels() {
  static const KernelTable* const best = choose_kernels();
  return best;
}

Result<std::unique_ptr<Backend>> make_cpu_backend(const CpuOptions& options) {
  if (options.threads < 1) {
    return error(Code::invalid_argument, "cpu backend: threads must be at least 1");
  }
  const cpu::KernelTable* kernels = nullptr;
  if (options.isa.empty()) {
    kernels = cpu::best_kernels();
    if (kernels == nullptr) {
      return error(Code::failed_precondition, "cpu backend: this machine lacks AVX2 and FMA");
    }
  } else {
    const auto isas = known_isas();
    const auto named = std::find_if(isas.begin(), isas.end(),
                                    [&](const Isa& isa) { return options.isa == isa.name; });
    if (named == isas.end()) {
      return error(Code::invalid_argument,
                   "cpu backend: unknown isa \"{}\"; avx512bf16, avx512 and avx2 exist",
                   options.isa);
    }
    if (!named->available) {
      return error(Code::failed_precondition, "cpu backend: this machine has no {}", options.isa);
    }
    kernels = &named->table();
  }
  return Result<std::unique_ptr<Backend>>(std::make_unique<cpu::CpuBackend>(*kernels, options));
}

}  // namespace fulgur::kernels
