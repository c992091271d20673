// fulgur-bench-telemetry: time of each thing that telemetry does on the hot path, and what all of
// it takes of a decode step: operations a step (counted from the code, see step_ns) times their
// cost, over the step's time as given. One thread's CPU time; medians of rounds.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <ctime>
#include <functional>

#include "common/base/clock.hpp"
#include "common/telemetry/metrics.hpp"

namespace {

using namespace fulgur;

constexpr std::size_t kRounds = 15;

/// CPU time of this thread, so that a busy machine does not count.
double cpu_ns() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) * 1e9 + static_cast<double>(now.tv_nsec);
}

/// Nanoseconds of one call of `work`, median over rounds of `calls`.
double cost_ns(std::size_t calls, const std::function<void(std::size_t)>& work) {
  std::vector<double> rounds;
  for (std::size_t round = 0; round < kRounds; ++round) {
    const double started = cpu_ns();
    for (std::size_t i = 0; i < calls; ++i) work(i);
    rounds.push_back((cpu_ns() - started) / static_cast<double>(calls));
  }
  std::ranges::sort(rounds);
  return rounds[kRounds / 2];
}

struct Costs {
  double clock = 0;    ///< one reading
  double count = 0;    ///< one addition to a total of a plain struct
  double tally = 0;    ///< one Tally::add
  double observe = 0;  ///< one Histogram::Observe of the router
  double refresh = 0;  ///< half-second copy of a worker's totals: layers x experts counters
  double scrape = 0;   ///< text of the same
};

Costs measure(std::size_t series) {
  Costs costs;
  const RealClock clock;
  volatile std::uint64_t sink = 0;
  volatile double value = 0.003;
  costs.clock =
      cost_ns(100'000, [&](std::size_t) { sink = static_cast<std::uint64_t>(clock.now()); });
  costs.count = cost_ns(100'000, [&](std::size_t i) { sink = sink + i; });
  telemetry::Tally tally(telemetry::request_buckets_s());
  costs.tally = cost_ns(100'000, [&](std::size_t) { tally.add(value); });
  telemetry::Metrics metrics("bench", "bench");
  auto& histogram =
      metrics.histogram("fulgur_bench_seconds", "A latency", telemetry::inter_token_buckets_s());
  costs.observe = cost_ns(100'000, [&](std::size_t) { histogram.Observe(value); });
  std::vector<telemetry::MirroredCounter> mirrors;
  for (std::size_t i = 0; i < series; ++i)
    mirrors.emplace_back(
        metrics.counter("fulgur_bench_total", "A total", {{"expert", std::to_string(i)}}));
  std::uint64_t total = 0;
  costs.refresh = cost_ns(100, [&](std::size_t) {
    ++total;
    for (auto& mirror : mirrors) mirror.set(total);
  });
  costs.scrape = cost_ns(3, [&](std::size_t) { sink = metrics.text().size(); });
  return costs;
}

/// What one decode step does for telemetry in the process that does most of it, the shard, and in
/// the router for each token. Per layer: 4 clock readings and 6 additions (LayerActor); per
/// dispatch: 2 and 12 (ExpertDispatch); per step: 4 and 8, two tallies (Engine).
double step_ns(const Costs& costs, double layers, double dispatches, double tokens) {
  const double clocks = 4 * layers + 2 * layers * dispatches + 4;
  const double counts = 6 * layers + 12 * layers * dispatches + 8;
  return clocks * costs.clock + counts * costs.count + 2 * costs.tally +
         tokens * (2 * costs.clock + costs.observe + 2 * costs.count);
}

}  // namespace

int main(int argc, char** argv) {
  CLI::App app("What telemetry costs on the hot path", "fulgur-bench-telemetry");
  double layers = 8;
  double dispatches = 2;
  double tokens = 1;
  double step_us = 830;
  std::size_t series = 2560;
  app.add_option("--layers", layers, "layers of the model")->capture_default_str();
  app.add_option("--dispatches", dispatches, "workers a layer's tokens go to")
      ->capture_default_str();
  app.add_option("--tokens", tokens, "tokens of a step")->capture_default_str();
  app.add_option("--step-us", step_us, "time of a step in microseconds")->capture_default_str();
  app.add_option("--series", series, "layers x experts of a worker")->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  const Costs costs = measure(series);
  std::printf("%-44s %10.1f ns\n%-44s %10.1f ns\n%-44s %10.1f ns\n%-44s %10.1f ns\n",
              "clock reading", costs.clock, "addition to a total", costs.count, "Tally::add",
              costs.tally, "Histogram::Observe (router)", costs.observe);
  std::printf("%-44s %10.1f us, each 0.5 s: %.4f %%\n", "copy of all totals of a worker",
              costs.refresh / 1e3, costs.refresh / 5e6);
  std::printf("%-44s %10.1f us, on the HTTP thread\n", "scrape of a worker", costs.scrape / 1e3);
  const double step = step_ns(costs, layers, dispatches, tokens);
  std::printf("%-44s %10.2f us of %.0f us: %.2f %%\n",
              "a step of the shard, and its tokens' router", step / 1e3, step_us,
              step / 10 / step_us);
  return 0;
}
