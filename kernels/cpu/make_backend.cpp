// Choice of the instruction set at run time.
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

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

/// Whether this process may use the tile registers of AMX: the kernel gives their room on a switch
/// to those who ask.
bool ask_for_tiles() {
  constexpr unsigned kAmxBf16 = 1U << 22, kAmxTile = 1U << 24;
  constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (__get_cpuid_count(7, 0, &a, &b, &c, &d) == 0) return false;
  if ((d & kAmxBf16) == 0 || (d & kAmxTile) == 0) return false;
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

std::vector<Isa> find_isas() {
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512dq");
  const bool bf16 = avx512 && __builtin_cpu_supports("avx512bf16");
  return {{"amx", bf16 && ask_for_tiles(), cpu::amx_kernels},
          {"avx512bf16", bf16, cpu::avx512bf16_kernels},
          {"avx512", avx512, cpu::avx512_kernels},
          {"avx2", avx2, cpu::avx2_kernels}};
}

/// Best first. The compiler's cpu model covers what the operating system saves on a switch, too.
const std::vector<Isa>& known_isas() {
  static const std::vector<Isa> isas = find_isas();
  return isas;
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

const Isa* first_available(bool with_amx) {
  const auto& isas = known_isas();
  const auto found = std::find_if(isas.begin(), isas.end(), [&](const Isa& isa) {
    return isa.available && (with_amx || isa.table().order == ProductOrder::pairs);
  });
  return found == isas.end() ? nullptr : &*found;
}

/// The first that is available but AMX. Some machines run vdpbf16ps at less than the rate of the
/// two fused multiply-adds it stands for (half of it on an Intel Xeon). There plain AVX-512 is
/// faster, and its bits are the same.
const cpu::KernelTable* fastest_by_pairs() {
  const Isa* first = first_available(false);
  if (first == nullptr) return nullptr;
  const cpu::KernelTable& table = first->table();
  if (table.product_bf16 == nullptr) return &table;
  return rate(table.probe_bf16) > rate(table.probe_fma) ? &table : &cpu::avx512_kernels();
}

/// AMX is never weighed against the others: two processes of one machine must not differ in their
/// bits.
const cpu::KernelTable* best_kernels(bool with_amx) {
  static const cpu::KernelTable* const by_pairs = fastest_by_pairs();
  const Isa* first = first_available(with_amx);
  const bool tiles = first != nullptr && first->table().order == ProductOrder::tiles;
  return tiles ? &first->table() : by_pairs;
}

}  // namespace

Result<const cpu::KernelTable*> cpu::kernels_of(const std::string& name) {
  if (name == "auto" || name == "avx") {
    const KernelTable* kernels = best_kernels(name == "auto");
    if (kernels != nullptr) return kernels;
    return error(Code::failed_precondition, "cpu backend: this machine lacks AVX2 and FMA");
  }
  const auto& isas = known_isas();
  const auto named =
      std::find_if(isas.begin(), isas.end(), [&](const Isa& isa) { return name == isa.name; });
  if (named == isas.end()) {
    return error(
        Code::invalid_argument,
        "cpu backend: unknown isa \"{}\"; auto, avx, amx, avx512bf16, avx512 and avx2 exist", name);
  }
  if (!named->available) {
    return error(Code::failed_precondition, "cpu backend: this machine has no {}", name);
  }
  return &named->table();
}

Result<std::unique_ptr<Backend>> make_cpu_backend(const CpuOptions& options) {
  if (options.threads < 1) {
    return error(Code::invalid_argument, "cpu backend: threads must be at least 1");
  }
  FULGUR_ASSIGN_OR_RETURN(const cpu::KernelTable* kernels, cpu::kernels_of(options.isa));
  return Result<std::unique_ptr<Backend>>(std::make_unique<cpu::CpuBackend>(*kernels, options));
}

}  // namespace fulgur::kernels
