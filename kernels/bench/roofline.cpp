// Machine limits: see roofline.hpp. Each is the median of many rounds of about a millisecond, the
// rate that work of some length can have: a host that lowers its clock for AMX let some rounds run
// four times as fast as those before and after (2,350 and 565 GFLOP/s a thread), and the best round
// of a shared memory reads 1.15 times as fast as the median.
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
constexpr int kRounds = 128;

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

struct Rate {
  double median;
  double best;
};
Rate rate_of(double work, const std::vector<double>& seconds) {
  return {work / seconds[seconds.size() / 2] * 1e-9, work / seconds.front() * 1e-9};
}

Rate read_bandwidth(cpu::ComputePool& pool, const cpu::KernelTable& kernels) {
  const auto memory = cpu::allocate_pages(kReadBytes, true, true);
  auto* words = reinterpret_cast<std::uint32_t*>(memory.get());
  for (std::size_t i = 0; i < kReadBytes / 4; i += 16) words[i] = static_cast<std::uint32_t>(i);
  const auto* data = reinterpret_cast<const float*>(memory.get());
  std::vector<float> sinks(pool.threads() * 16);
  const auto seconds = round_seconds([&](std::size_t round) {
    const float* part = data + round % (kReadBytes / kReadRound) * (kReadRound / 4);
    pool.run(kReadRound / kReadUnit, [&](std::size_t unit, std::uint32_t thread) {
      kernels.probe_read(part + unit * (kReadUnit / 4), kReadUnit / 4, &sinks[thread * 16]);
    });
  });
  return rate_of(static_cast<double>(kReadRound), seconds);
}

Rate peak(cpu::ComputePool& pool, double (*probe)(std::size_t, float*)) {
  std::vector<float> sinks(pool.threads() * 16, 1e-20F);
  std::vector<double> operations(pool.threads());
  const auto seconds = round_seconds([&](std::size_t) {
    pool.run(pool.threads(), [&](std::size_t unit, std::uint32_t) {
      operations[unit] = probe(kPeakSteps, &sinks[unit * 16]);
    });
  });
  double total = 0;
  for (const double part : operations) total += part;
  return rate_of(total, seconds);
}

/// The CPUs of the calling thread, given back at the end.
class CallerAffinity {
 public:
  CallerAffinity() : known_(sched_getaffinity(0, sizeof set_, &set_) == 0) {}
  ~CallerAffinity() {
    if (known_) sched_setaffinity(0, sizeof set_, &set_);
  }
  CallerAffinity(const CallerAffinity&) = delete;
  CallerAffinity& operator=(const CallerAffinity&) = delete;

 private:
  cpu_set_t set_;
  bool known_;
};

}  // namespace

Result<Roofline> measure_roofline(std::uint32_t threads, const std::vector<int>& cpus,
                                  const std::string& isa) {
  FULGUR_ASSIGN_OR_RETURN(const cpu::KernelTable* kernels, cpu::kernels_of(isa));
  if (threads < 1) return error(Code::invalid_argument, "roofline: threads must be at least 1");
  const CallerAffinity caller;
  cpu::ComputePool pool(threads, cpus);
  Roofline roofline;
  const Rate bf16 = peak(pool, kernels->probe_bf16);
  const Rate read = read_bandwidth(pool, *kernels);
  roofline.read_gb_s = read.median;
  roofline.read_best_gb_s = read.best;
  roofline.bf16_gf_s = bf16.median;
  roofline.bf16_best_gf_s = bf16.best;
  roofline.f32_gf_s = peak(pool, kernels->probe_fma).median;
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
