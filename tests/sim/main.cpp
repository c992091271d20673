// fulgur-sim: runs seeds of the simulation and reports. Behind `fulgur sim`.
#include <fmt/core.h>
#include <signal.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <chrono>

#include "common/base/memory.hpp"
#include "tests/sim/simulation.hpp"

using namespace fulgur;

namespace {

struct Options {
  std::uint64_t seeds = 100;
  std::uint64_t first = 1;
  std::optional<std::uint64_t> seed;
  std::uint32_t failures_max = 10;
  bool verbose = false;
};

volatile std::uint64_t running_seed = 0;

/// A crash must name its seed too.
void on_crash(int signal) {
  char text[96];
  const auto end = fmt::format_to_n(text, sizeof text, "seed {}: signal {}\n", running_seed, signal);
  static_cast<void>(!write(2, text, end.size));
  ::signal(signal, SIG_DFL);
  raise(signal);
}

struct Totals {
  std::uint64_t seeds = 0;
  std::uint64_t failed = 0;
  std::uint64_t events = 0;
  std::uint64_t tokens = 0;
  Nanoseconds duration = 0;
  Nanoseconds recovery_max = 0;
  std::array<std::uint64_t, sim::kFaults> faults{};
  std::map<sim::Ending, std::uint64_t> endings;

  void add(const sim::Report& report) {
    ++seeds;
    failed += report.failures.empty() ? 0 : 1;
    events += report.events;
    tokens += report.tokens;
    duration += report.duration;
    recovery_max = std::max(recovery_max, report.recovery);
    for (std::size_t at = 0; at < faults.size(); ++at) faults[at] += report.faults[at];
    const auto count = [&](sim::Fault fault) -> auto& { return faults[static_cast<std::size_t>(fault)]; };
    count(sim::Fault::loss) += report.network.lost;
    count(sim::Fault::duplicate) += report.network.duplicated;
    count(sim::Fault::reorder) += report.network.reordered;
    count(sim::Fault::corrupt) += report.network.corrupted;
    for (const auto& [ending, number] : report.endings) endings[ending] += number;
  }

  void print(double seconds) const {
    fmt::print("{} seeds, {} failed, {:.1f} virtual hours in {:.1f} s, {} events, {} tokens equal to "
               "the bit, slowest recovery {:.1f} s\n",
               seeds, failed, static_cast<double>(duration) / 3.6e12, seconds, events, tokens,
               static_cast<double>(recovery_max) / 1e9);
    fmt::print("requests:");
    for (const auto& [ending, number] : endings) fmt::print(" {} {},", sim::to_string(ending), number);
    fmt::print("\nfaults:");
    for (std::size_t at = 0; at < faults.size(); ++at) {
      fmt::print(" {} {},", sim::to_string(static_cast<sim::Fault>(at)), faults[at]);
    }
    fmt::print("\n");
  }
};

void print_failure(const sim::Report& report) {
  for (const auto& failure : report.failures) {
    fmt::print(stderr, "seed {}: {}\n", report.seed, failure);
  }
  fmt::print(stderr, "  replay: ./fulgur sim --seed {} --verbose\n", report.seed);
}

int run_one(std::uint64_t seed, bool verbose) {
  running_seed = seed;
  const auto show = [](const std::string& line) { fmt::print("{}\n", line); };
  const auto report =
      verbose ? sim::simulate(seed, show) : sim::simulate(seed);
  Totals totals;
  totals.add(report);
  totals.print(0);
  fmt::print("trace {:016x}\n", report.trace);
  if (report.failures.empty()) return 0;
  print_failure(report);
  return 1;
}

int run_many(const Options& options) {
  const auto started = std::chrono::steady_clock::now();
  Totals totals;
  for (std::uint64_t seed = options.first; seed < options.first + options.seeds; ++seed) {
    running_seed = seed;
    const auto report = sim::simulate(seed);
    totals.add(report);
    if (!report.failures.empty()) print_failure(report);
    if (totals.failed >= options.failures_max) break;
  }
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - started;
  totals.print(took.count());
  return totals.failed == 0 ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  tune_allocator();
  CLI::App app("Simulates the whole mesh on virtual time, one fault schedule a seed", "fulgur sim");
  Options options;
  app.add_option("--seeds", options.seeds, "how many seeds")->capture_default_str();
  app.add_option("--first", options.first, "the first of them")->capture_default_str();
  app.add_option("--seed", options.seed, "run this one only");
  app.add_option("--max-failures", options.failures_max, "stop after so many")->capture_default_str();
  app.add_flag("--verbose", options.verbose, "with --seed: print every event");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& wrong) {
    const bool asked_for_help = wrong.get_exit_code() == 0;
    if (asked_for_help) return app.exit(wrong);
    fmt::print(stderr, "fulgur sim: {}\n", wrong.what());
    return 2;
  }
  for (const int signal : {SIGSEGV, SIGABRT, SIGBUS, SIGFPE}) ::signal(signal, on_crash);
  try {
    return options.seed ? run_one(*options.seed, options.verbose) : run_many(options);
  } catch (const std::exception& broken) {
    fmt::print(stderr, "seed {}: {}\n", std::uint64_t{running_seed}, broken.what());
    return 1;
  }
}
