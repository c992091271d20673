// Machine limits: see roofline.hpp. Each figure is the best of many short rounds, since a limit is
// what the machine can do when nothing else disturbs it; but the rate of products is that of the
// fastest quarter, for AMX lowers the clock: the first rounds after a rest ran up to four times as
// fast as any that follow, and as no product of some length ever does.
#include "kernels/bench/roofline.hpp"

#include <sched.h>

#include <algorithm>

#include "common/base/clock.hpp"
#include "common/base/rng.hpp"
#include "kernels/cpu/compute_pool.hpp"
#include "kernels/cpu/cpu_backend.hpp"
#include "kernels/cpu/packed_weights.hpp"

namespace fulgur::kernels {
namespace {

constexpr std::size_t kReadBytes = 256UL << 20;
constexpr std::size_t kReadRound = 32UL << 20;  // a round reads the next part of the buffer
constexpr std::size_t kReadUnit = 256UL << 10;
constexpr std::size_t kPeakSteps = 100'000;  // of 16 vector operations: some 200 us
constexpr int kRounds = 64;

/// Seconds of each round, in ascending order.
template <class Work>
std::vector<double> round_seconds(const Work& work) {
  const RealClock clock;
  std::vector<double> seconds;
  for (int round = 0; round < kRounds; ++round) {
    const Nanoseconds start = clock.now();
    work(round);
    seconds.push_back(static_cast<double>(clock.now() - start) * 1e-9);
  }
  std::sort(seconds.begin(), seconds.end());
  return seconds;
}

double read_bandwidth(cpu::ComputePool& pool, const cpu::KernelTable& kernels) {
  const auto memory = cpu::allocate_pages(kReadBytes, true, true);
  auto* words = reinterpret_cast<std::uint32_t*>(memory.get());
  for (std::size_t i = 0; i < kReadBytes / 4; i += 16) words[i] = static_cast<std::uint32_t>(i);
  const auto* data = reinterpret_cast<const float*>(memory.get());
  std::vector<float> sinks(pool.threads() * 16);
  const double seconds =
      round_seconds([&](std::size_t round) {
        const float* part = data + round % (kReadBytes / kReadRound) * (kReadRound / 4);
        pool.run(kReadRound / kReadUnit, [&](std::size_t unit, std::uint32_t thread) {
          kernels.probe_read(part + unit * (kReadUnit / 4), kReadUnit / 4, &sinks[thread * 16]);
        });
      }).front();
  return static_cast<double>(kReadRound) / seconds * 1e-9;
}

double peak(cpu::ComputePool& pool, double (*probe)(std::size_t, float*)) {
  std::vector<float> sinks(pool.threads() * 16, 1e-20F);
  std::vector<double> operations(pool.threads());
  const double seconds = round_seconds([&](std::size_t) {
    pool.run(pool.threads(), [&](std::size_t unit, std::uint32_t) {
      operations[unit] = probe(kPeakSteps, &sinks[unit * 16]);
    });
  })[kRounds / 4];
  double total = 0;
  for (const double part : operations) total += part;
  return total / seconds * 1e-9;
}

}  // namespace

Result<Roofline> measure_roofline(std::uint32_t threads, const std::vector<int>& cpus,
                                  const std::string& isa) {
  FULGUR_ASSIGN_OR_RETURN(const cpu::KernelTable* kernels, cpu::kernels_of(isa));
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
