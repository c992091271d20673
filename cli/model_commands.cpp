// fulgur check, fulgur synth and fulgur bench.
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <thread>

#include "cli/commands.hpp"
#include "common/model/inspect.hpp"
#include "common/model/synth.hpp"

namespace fulgur::cli {

int run(const CheckOptions& options) {
  const auto report = model::inspect(options.directory);
  if (!report.is_ok()) return fail(report.status());
  std::printf("%s\n", (options.json ? model::to_json(*report) : model::to_text(*report)).c_str());
  return report->consistent() ? 0 : 1;
}

int run(const SynthOptions& options) {
  bool known = false;
  std::string names;
  for (const auto& preset : model::synth_presets()) {
    known = known || preset.name == options.preset;
    names += (names.empty() ? "" : ", ") + preset.name;
  }
  if (!known) {
    std::fprintf(stderr, "fulgur: --preset %s: no such preset; there are %s\n",
                 options.preset.c_str(), names.c_str());
    return 2;
  }
  model::SynthOptions job;
  job.preset = options.preset;
  job.directory = options.out;
  job.seed = options.seed;
  job.threads = std::max(1U, std::thread::hardware_concurrency());
  const bool terminal = isatty(STDERR_FILENO) != 0;
  if (terminal)
    job.progress = [](std::uint64_t done, std::uint64_t total) {
      std::fprintf(stderr, "\rwriting %llu of %llu MiB",
                   static_cast<unsigned long long>(done >> 20),
                   static_cast<unsigned long long>(total >> 20));
    };
  const auto written = model::synthesize(job);
  if (terminal) std::fputc('\n', stderr);
  if (!written.is_ok()) return fail(written.status());
  std::printf("%s: %s, seed %llu, %.1f MiB\n", options.out.c_str(), options.preset.c_str(),
              static_cast<unsigned long long>(options.seed),
              static_cast<double>(*written) / (1 << 20));
  return 0;
}

int run(const BenchOptions& options) {
  const std::string program = program_directory() + "/fulgur-bench-" + options.bench;
  if (access(program.c_str(), X_OK) != 0)
    return fail(error(Code::not_found,
                      "{} is not built (./fulgur bench builds what its libraries allow)", program));
  std::vector<char*> argv{const_cast<char*>(program.c_str())};
  for (const auto& argument : options.arguments)
    argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  execv(program.c_str(), argv.data());
  return fail(error(Code::unavailable, "cannot run {}: {}", program, std::strerror(errno)));
}

}  // namespace fulgur::cli
