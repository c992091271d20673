// fulgur-bench-kernels: times the kernels against the machine's own limits, measured in the same
// run. Cases are run in turn, round after round, so that a disturbance hits all of them; the median
// of single calls is printed, and beside it the tenth percentile: the machine when quiet.
#include <fmt/format.h>

#include <time.h>

#include <CLI/CLI.hpp>
#include <algorithm>

#include "common/base/clock.hpp"
#include "common/base/memory.hpp"
#include "kernels/bench/bench_cases.hpp"
#include "kernels/bench/roofline.hpp"

namespace {

using namespace fulgur;
using namespace fulgur::kernels;

struct Options {
  std::uint32_t threads = 2;
  std::string precision = "bf16";
  std::string isa = "auto";
  std::string filter;
  int rounds = 9;
  bool cpu_time = false;
};

/// Nanoseconds of the wall clock, or those the calling thread ran: on a shared machine the latter
/// leaves out what other programs took.
Nanoseconds now(bool cpu_time) {
  if (!cpu_time) return RealClock().now();
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return time.tv_sec * kSecond + time.tv_nsec;
}

struct Times {
  double median = 0;
  double p10 = 0;  ///< seconds a call takes when the machine is quiet
};

/// Times of single calls in seconds; a round of a case lasts about 20 ms.
std::vector<Times> measure(std::vector<bench::Case>& cases, int rounds, bool cpu_time) {
  const RealClock clock;
  std::vector<std::vector<double>> samples(cases.size());
  for (bench::Case& c : cases) c.run();
  for (int round = 0; round < rounds; ++round) {
    for (std::size_t i = 0; i < cases.size(); ++i) {
      const Nanoseconds end = clock.now() + 20 * kMillisecond;
      cases[i].run();
      do {
        const Nanoseconds start = now(cpu_time);
        cases[i].run();
        samples[i].push_back(static_cast<double>(now(cpu_time) - start) * 1e-9);
      } while (clock.now() < end);
    }
  }
  std::vector<Times> times;
  for (auto& of_case : samples) {
    std::sort(of_case.begin(), of_case.end());
    times.push_back({of_case[of_case.size() / 2], of_case[of_case.size() / 10]});
  }
  return times;
}

void print(const bench::Case& c, const Times& times, const Roofline& roof) {
  const double time = times.median;
  const double memory = c.bytes * 1e-9 / roof.read_gb_s;
  const double compute =
      c.bf16_operations * 1e-9 / roof.bf16_gf_s + c.f32_operations * 1e-9 / roof.f32_gf_s;
  const double bound = std::max(memory, compute);
  fmt::print("{:<34} {:>10.1f} {:>8.1f} {:>8.1f} {:>7} {:>5.0f}% {:>5.0f}%\n", c.name, time * 1e6,
             c.bytes * 1e-9 / time, (c.bf16_operations + c.f32_operations) * 1e-9 / time,
             memory > compute ? "memory" : "compute", 100 * bound / time, 100 * bound / times.p10);
}

int run(const Options& options) {
  const auto cpus = allowed_cpus();
  const auto precision = options.precision == "f32" ? Precision::f32 : Precision::bf16;
  auto backend = make_cpu_backend({precision, options.threads, cpus, options.isa});
  const auto one = measure_roofline(1, cpus, options.isa);
  const auto roof = measure_roofline(options.threads, cpus, options.isa);
  for (const Status& status : {backend.status(), one.status(), roof.status()}) {
    if (status.is_ok()) continue;
    fmt::print(stderr, "fulgur-bench-kernels: {}\n", status.message());
    return 1;
  }
  fmt::print("{} {} {} threads\n", (*backend)->name(), options.precision, options.threads);
  fmt::print("read {:.1f} GB/s (1 thread {:.1f}), bf16 {:.0f} GF/s ({:.0f}), f32 {:.0f} ({:.0f})\n",
             roof->read_gb_s, one->read_gb_s, roof->bf16_gf_s, one->bf16_gf_s, roof->f32_gf_s,
             one->f32_gf_s);
  auto cases = bench::make_cases(**backend, options.filter);
  const auto times = measure(cases, options.rounds, options.cpu_time);
  const auto after = measure_roofline(options.threads, cpus, options.isa);
  fmt::print("read after the run {:.1f} GB/s\n", after->read_gb_s);
  fmt::print("{:<34} {:>10} {:>8} {:>8} {:>7} {:>6} {:>6}\n", "case", "us", "GB/s", "GF/s", "bound",
             "median", "p10");
  for (std::size_t i = 0; i < cases.size(); ++i) print(cases[i], times[i], *roof);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  tune_allocator();
  Options options;
  CLI::App app("Times Fulgur's CPU kernels against this machine's measured limits.");
  app.add_option("--threads", options.threads, "compute threads")->check(CLI::Range(1, 256));
  app.add_option("--precision", options.precision)->check(CLI::IsMember({"bf16", "f32"}));
  app.add_option("--isa", options.isa, "auto | avx | amx | avx512bf16 | avx512 | avx2")->capture_default_str();
  app.add_option("--filter", options.filter, "only cases whose name contains this");
  app.add_option("--rounds", options.rounds)->check(CLI::Range(1, 1000));
  app.add_flag("--cpu-time", options.cpu_time, "time of the calling thread; with --threads 1");
  CLI11_PARSE(app, argc, argv);
  return run(options);
}
