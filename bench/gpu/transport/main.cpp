// fulgur-bench-gpu-transport: see gpu_transport.hpp and bench/gpu/transport.sh.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <exception>
#include <nlohmann/json.hpp>

#include "bench/gpu/transport/gpu_transport.hpp"
#include "common/base/log.hpp"
#include "common/base/memory.hpp"

namespace fulgur::bench {

std::string to_table(const std::vector<GpuTransportRow>& rows) {
  std::string text = fmt::format("{:<18} {:<11} {:>6} {:>11} {:>10} {:>10} {:>8}\n", "carrier",
                                 "what", "tokens", "bytes", "p50 us", "p99 us", "GB/s");
  for (const GpuTransportRow& row : rows) {
    text += fmt::format("{:<18} {:<11} {:>6} {:>11} {:>10.1f} {:>10.1f} {:>8.1f} {}\n", row.name,
                        row.what, row.tokens, row.bytes, row.p50_us, row.p99_us, row.gb_per_s,
                        row.note);
  }
  return text;
}

std::string to_json(const std::vector<GpuTransportRow>& rows) {
  auto list = nlohmann::json::array();
  for (const GpuTransportRow& row : rows) {
    list.push_back({{"name", row.name},
                    {"what", row.what},
                    {"tokens", row.tokens},
                    {"bytes", row.bytes},
                    {"p50_us", row.p50_us},
                    {"p99_us", row.p99_us},
                    {"gb_per_s", row.gb_per_s},
                    {"error", row.note}});
  }
  return list.dump(1);
}

}  // namespace fulgur::bench

int main(int argc, char** argv) {
  using namespace fulgur;
  tune_allocator();
  bench::GpuTransportOptions options;
  std::string serve;
  int device = 0;
  std::uint64_t window = 0;
  bool raw = false;
  bool small = false;
  std::string json;
  CLI::App app("Dispatch and combine between GPUs");
  app.add_option("--devices", options.devices, "the shard's GPU, then the workers'")
      ->delimiter(',');
  app.add_option("--carriers", options.carriers, "peer, nccl, none (staged)")->delimiter(',');
  app.add_option("--tokens", options.tokens, "rows of a dispatch")->delimiter(',');
  app.add_option("--rounds", options.rounds, "round trips of a small size");
  app.add_option("--kills", options.kills, "workers killed for each carrier");
  app.add_option("--nccl-blocks", options.nccl_blocks, "thread blocks of one NCCL direction");
  app.add_option("--json", json, "also write the rows to this file");
  app.add_flag("--small", small, "less memory and fewer bytes: a rehearsal");
  app.add_flag("--raw", raw, "bare copies between the first two GPUs, nothing else");
  app.add_option("--serve", serve, "be a worker on this endpoint");
  app.add_option("--device", device, "of the worker");
  app.add_option("--window", window, "bytes of a link's window");
  CLI11_PARSE(app, argc, argv);
  if (small) {
    options.window_bytes = std::uint64_t{4} << 20;
    options.one_way_bytes = std::uint64_t{64} << 20;
  }
  log::init("gpu-transport", log::Level::warn);

  try {
    if (!serve.empty()) {
      return bench::serve_gpu_worker(serve, device, options.carriers.front(), window,
                                     options.nccl_blocks);
    }
    if (options.devices.size() < 2) {
      std::fprintf(stderr, "fulgur-bench-gpu-transport: two devices at least\n");
      return 2;
    }
    const Result<std::vector<bench::GpuTransportRow>> rows =
        raw ? bench::bench_raw_copies(options.devices[0], options.devices[1], options.tokens)
            : bench::bench_gpu_transport(options);
    if (!rows) {
      std::fprintf(stderr, "fulgur-bench-gpu-transport: %s\n", rows.status().message().c_str());
      return 2;
    }
    std::fputs(bench::to_table(*rows).c_str(), stdout);
    if (!json.empty()) {
      if (std::FILE* file = std::fopen(json.c_str(), "w")) {
        std::fputs(bench::to_json(*rows).c_str(), file);
        std::fclose(file);
      }
    }
    const bool failed =
        std::ranges::any_of(*rows, [](const auto& row) { return !row.note.empty(); });
    return failed ? 1 : 0;
  } catch (const std::exception& failure) {
    std::fprintf(stderr, "fulgur-bench-gpu-transport: %s\n", failure.what());
    return 1;
  }
}
