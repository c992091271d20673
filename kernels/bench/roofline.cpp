// Machine limits: see roofline.hpp. Each figure is the best of many short rounds, since a limit is
// what the machine can do when nothing else disturbs it.
#include "kernels/bench/roofline.hpp"

#include <sched.h>

#include <algorithm>

#include "common/base/clock.hpp"
#include "common/base/rng.hpp"
#include "kernels/cpu/compute_pool.hpp"
#include "kernels/cpu/kernel_table.hpp"
#include "kernels/cpu/packed_weights.hpp"

namespace fulgur::kernels {
namespace {

constexpr std::size_t kReadBytes = 256UL << 20;
constexpr std::size_t kReadRound = 32UL << 20;  // a round reads the next part of the buffer
constexpr std::size_t kReadUnit = 256UL << 10;
constexpr std::size_t kPeakSteps = 100'000;  // of 16 vector operations: some 200 us
constexpr int kRounds = 64;

template <class Work>
double best_seconds(const Work& work) {
  const RealClock clock;
  double best = 1e9;
  for (int round = 0; round < kRounds; ++round) {
    const Nanoseconds start = clock.now();
    work(round);
    best = std::min(best, static_cast<double>(clock.now() - start) * 1e-9);
  }
  return best;
}

double read_bandwidth(cpu::ComputePool& pool, const cpu::KernelTable& kernels) {
  const auto memory = cpu::allocate_pages(kReadBytes, true, true);
  auto* words = reinterpret_cast<std::uint32_t*>(memory.get());
  for (std::size_t i = 0; i < kReadBytes / 4; i += 16) words[i] = static_cast<std::uint32_t>(i);
  const auto* data = reinterpret_cast<const float*>(memory.get());
  std::vector<float> sinks(pool.threads() * 16);
  const double seconds = best_seconds([&](std::size_t round) {
    const float* part = data + round % (kReadBytes / kReadRound) * (kReadRound / 4);
    pool.run(kReadRound / kReadUnit, [&](std::size_t unit, std::uint32_t thread) {
      kernels.probe_read(part + unit * (kReadUnit / 4), kReadUnit / 4, &sinks[thread * 16]);
    });
  });
  return static_cast<double>(kReadRound) / seconds * 1e-9;
}

double peak(cpu::ComputePool& pool, double (*probe)(std::size_t, float*)) {
  std::vector<float> sinks(pool.threads() * 16, 1e-20F);
  std::vector<double> operations(pool.threads());
  const double seconds = best_seconds([&](std::size_t) {
    pool.run(pool.threads(), [&](std::size_t unit, std::uint32_t) {
      operations[unit] = probe(kPeakSteps, &sinks[unit * 16]);
    });
  });
  double total = 0;
  for (const double part : operations) total += part;
  return total / seconds * 1e-9;
}

}  // namespace

Result<Roofline> measure_roofline(std::uint32_t threads, const std::vector<int>& cpus) {
  const cpu::KernelTable* kernels = cpu::best_kernels();
  if (kernels == nullptr) {
    return error(Code::failed_precondition, "roofline: this machine lacks AVX2 and FMA");
  }
  if (threads < 1) return error(Code::invalid_argument, "roofline: threads must be at least 1");
  cpu::ComputePool pool(threads, cpus);
  Roofline roofline;
  roofline.bf16_gf_s = peak(pool, kernels->probe_bf16);
  roofline.f32_gf_s = peak(pool, kernels->probe_fma);
  roofline.read_gb_s = read_bandwidth(pool, *kernels);
  return roofline;
}

std::vector<int> allowed_cpus() {
  std::vector<int> cpus;
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) != 0) return cpus;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &set)) cpus.push_back(cpu);
  }
  return cpus;
}

}  // namespace fulgur::kernels
