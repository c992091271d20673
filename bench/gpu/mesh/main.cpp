// fulgur-bench-gpu-mesh: see gpu_mesh.hpp and bench/gpu/mesh.sh. One line of JSON for each batch.
#include <CLI/CLI.hpp>
#include <cstdio>
#include <exception>

#include "bench/gpu/mesh/gpu_mesh.hpp"
#include "common/base/log.hpp"
#include "common/base/memory.hpp"

using namespace fulgur;

namespace {

void add_flags(CLI::App& app, bench::GpuMeshOptions& options) {
  app.add_option("--devices", options.devices,
                 "GPU of the shard, then of each worker; one: both roles in one process")
      ->delimiter(',');
  app.add_option("--carrier", options.carrier, "between GPUs; none: through host memory")
      ->check(CLI::IsMember({"peer", "nccl", "none"}))
      ->capture_default_str();
  app.add_option("--micro-batches", options.micro_batches, "in flight")
      ->check(CLI::Range(1, 16))
      ->capture_default_str();
  app.add_option("--batches", options.batches, "sequences that decode at a time")->delimiter(',');
  app.add_option("--prompt", options.prompt, "tokens of a prompt")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app.add_option("--warm-up", options.warm_up, "steps before the measurement")
      ->check(CLI::Range(1, 100000))
      ->capture_default_str();
  app.add_option("--steps", options.steps, "steps measured")
      ->check(CLI::Range(1, 100000))
      ->capture_default_str();
  app.add_option("--replicas", options.replicas, "workers that hold an expert")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  app.add_flag("--kill", options.kill, "kill a worker in the middle");
  app.add_option("--lightning", options.lightning, "lightning layers")->capture_default_str();
  app.add_option("--softmax", options.softmax, "softmax layers")->capture_default_str();
  app.add_option("--vocab", options.vocab,
                 "tokens; sampling is on the host, so M1's 200064 would measure that")
      ->check(CLI::Range(64, 1 << 20))
      ->capture_default_str();
  app.add_option("--kernels", options.family, "family of kernels")
      ->check(CLI::IsMember({"auto", "portable", "sm90"}))
      ->capture_default_str();
  app.add_option("--window-bytes", options.window_bytes, "of a link's window");
  app.add_option("--nccl-blocks", options.nccl_blocks, "thread blocks of one NCCL direction");
  app.add_option("--patience", options.patience_s, "seconds for a batch");
  app.add_flag("--tiny", options.tiny, "a small model: a rehearsal");
}

Status check(const bench::GpuMeshOptions& options) {
  const std::size_t workers = std::max<std::size_t>(options.devices.size(), 2) - 1;
  if (options.devices.empty() || options.batches.empty()) {
    return {Code::invalid_argument, "a device and a batch are needed"};
  }
  if (options.replicas > workers) return {Code::invalid_argument, "more replicas than workers"};
  if (options.kill && (options.devices.size() < 3 || options.replicas < 2)) {
    return {Code::invalid_argument, "--kill needs two workers and --replicas 2"};
  }
  return Status::ok();
}

}  // namespace

int main(int argc, char** argv) {
  tune_allocator();
  bench::GpuMeshOptions options;
  bench::WorkerPlace place;
  CLI::App app("An M1-shaped slice over several GPUs", "fulgur-bench-gpu-mesh");
  add_flags(app, options);
  app.add_option("--serve", place.endpoint, "be a worker on this endpoint");
  app.add_option("--worker", place.index, "which");
  app.add_option("--book", place.book, "descriptor of its book");
  CLI11_PARSE(app, argc, argv);
  log::init("gpu-mesh", log::Level::warn);
  const bool serves = !place.endpoint.empty();
  Status status = check(options);
  try {
    if (status.is_ok() && serves) {
      place.device = options.devices.at(place.index + 1);
      status = bench::serve_mesh_worker(options, place);
    } else if (status.is_ok()) {
      status = bench::run_gpu_mesh(options, [](const nlohmann::json& row) {
        std::printf("%s\n", row.dump().c_str());
        std::fflush(stdout);
      });
    }
  } catch (const std::exception& failure) {  // no memory, a failed launch
    status = {Code::internal, failure.what()};
  }
  if (status.is_ok()) return 0;
  std::fprintf(stderr, "fulgur-bench-gpu-mesh%s: %s\n", serves ? " (worker)" : "",
               status.message().c_str());
  return 1;
}
