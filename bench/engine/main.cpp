// fulgur-bench-engine: decode and prefill speed of one process, and of a running mesh (--mesh with
// its port), beside the bound of this machine measured in the same run. Decode is bound
// by the bytes of weights read, prefill by bf16 (or float32) products.
#include <CLI/CLI.hpp>
#include <sched.h>
#include <time.h>

#include <cstdio>
#include <optional>
#include <nlohmann/json.hpp>

#include "bench/engine/mesh_target.hpp"
#include "bench/engine/workload.hpp"
#include "bench/mesh/local_mesh.hpp"
#include "common/base/log.hpp"
#include "common/base/memory.hpp"
#include "kernels/bench/roofline.hpp"
#include "kernels/include/fulgur/kernels/make_backend.hpp"

using namespace fulgur;

namespace {

constexpr std::uint32_t kPaceSteps = 12;

struct Options {
  std::string model;
  std::string mesh;
  std::uint32_t threads = 2;
  std::string backend = "cpu";
  std::string expert_weights = "bf16";
  std::string isa = "auto";
  int gpu = 0;
  std::string activations = "bf16";
  std::vector<std::uint32_t> decode{1, 8, 32};
  std::vector<std::uint32_t> prefill{512, 4096};
  std::uint32_t steps = 32;
  std::uint32_t repeats = 3;
  std::uint64_t seed = 1;
  std::uint64_t prefix_cache_bytes = attention::PrefixCacheLimits{}.bytes_max;
  bool cpu_time = false;
  bool json = false;
};

/// Time the calling thread ran: on a shared machine it leaves out what other programs took. For one
/// process with one thread.
class ThreadClock final : public Clock {
 public:
  Nanoseconds now() const override {
    timespec time{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return time.tv_sec * kSecond + time.tv_nsec;
  }
  Nanoseconds wall_now() const override { return RealClock().wall_now(); }
};

/// Weight bytes of the attention part and operations of one token, for the bounds.
struct Costs {
  double attention_bytes = 0;  ///< read by every step
  double expert_bytes = 0;
  double flops_per_token = 0;
};

Costs costs_of(const model::ModelConfig& config) {
  Costs costs;
  const double active = static_cast<double>(config.active_params());
  const double experts = static_cast<double>(config.expert_params()) * config.experts_per_token *
                         config.layers;
  costs.attention_bytes = 2 * (active - experts + static_cast<double>(config.head_params()));
  costs.expert_bytes = 2 * static_cast<double>(config.expert_params());
  costs.flops_per_token = 2 * active;
  return costs;
}

struct Row {
  std::string kind;
  bench::Point point;
  double bound_tokens_per_s = 0;
};

/// Median by speed of `repeats` measurements, with the bound of that very one.
Row median(std::uint32_t repeats, const std::function<Row()>& measure) {
  std::vector<Row> rows;
  for (std::uint32_t i = 0; i < repeats; ++i) rows.push_back(measure());
  std::sort(rows.begin(), rows.end(), [](const auto& a, const auto& b) {
    return a.point.tokens_per_s() < b.point.tokens_per_s();
  });
  return rows[rows.size() / 2];
}

std::vector<Row> run_workloads(const Options& options, bench::Target target, const Clock& clock,
                               const model::ModelConfig& config, const kernels::Roofline& roofline,
                               const std::function<std::optional<bench::WeightReads>()>& weight_reads) {
  const Costs costs = costs_of(config);
  bench::Prompts prompts(config.vocab, options.seed);
  std::vector<Row> rows;
  for (const std::uint32_t batch : options.decode) {
    rows.push_back(median(options.repeats, [&]() -> Row {
      const auto before = weight_reads();
      // A mesh was idle while its counters settled; it finds its pace in these, which are counted too.
      (void)bench::measure_decode(target, clock, prompts, batch, 16, kPaceSteps);
      const auto point = bench::measure_decode(target, clock, prompts, batch, 16, options.steps);
      const auto after = weight_reads();
      const double steps = before && after ? after->steps - before->steps : 0;
      if (steps <= 0) return {"decode", point, 0};
      const double groups_per_step = (after->expert_groups - before->expert_groups) / steps;
      const double bytes_per_step = costs.attention_bytes + costs.expert_bytes * groups_per_step;
      return {"decode", point, roofline.read_gb_s * 1e9 / bytes_per_step * batch};
    }));
  }
  const double peak = options.activations == "f32" ? roofline.f32_gf_s : roofline.bf16_gf_s;
  for (const std::uint32_t prompt : options.prefill) {
    rows.push_back(median(options.repeats, [&]() -> Row {
      const auto point = bench::measure_prefill(target, clock, prompts, prompt);
      return {"prefill", point, peak * 1e9 / costs.flops_per_token};
    }));
  }
  return rows;
}

void print(const Options& options, const kernels::Roofline& roofline, const std::vector<Row>& rows) {
  if (options.json) {
    nlohmann::json out;
    out["roofline"] = {{"read_gb_s", roofline.read_gb_s},
                       {"read_best_gb_s", roofline.read_best_gb_s},
                       {"bf16_gf_s", roofline.bf16_gf_s},
                       {"bf16_best_gf_s", roofline.bf16_best_gf_s},
                       {"f32_gf_s", roofline.f32_gf_s}};
    for (const auto& row : rows) {
      out["rows"].push_back({{"kind", row.kind},
                             {"batch", row.point.batch},
                             {"prompt", row.point.prompt},
                             {"tokens_per_s", row.point.tokens_per_s()},
                             {"bound_tokens_per_s", row.bound_tokens_per_s}});
    }
    std::printf("%s\n", out.dump(2).c_str());
    return;
  }
  std::printf(
      "machine: read %.1f GB/s (best round %.1f), bf16 %.0f GF/s (%.0f), f32 %.0f GF/s (%u threads)\n",
      roofline.read_gb_s, roofline.read_best_gb_s, roofline.bf16_gf_s, roofline.bf16_best_gf_s,
      roofline.f32_gf_s, options.threads);
  std::printf("%-8s %6s %7s %12s %14s %9s\n", "kind", "batch", "prompt", "tokens/s", "bound tok/s",
              "of bound");
  for (const auto& row : rows) {
    std::printf("%-8s %6u %7u %12.1f ", row.kind.c_str(), row.point.batch, row.point.prompt,
                row.point.tokens_per_s());
    if (row.bound_tokens_per_s > 0) {
      std::printf("%14.1f %8.1f%%\n", row.bound_tokens_per_s,
                  100 * row.point.tokens_per_s() / row.bound_tokens_per_s);
    } else {
      std::printf("%14s %9s\n", "-", "-");
    }
  }
}

/// Where the shard's thread spent its time over the whole run.
void print_split(const attention::Shard& shard) {
  const auto ms = [&](Nanoseconds time) {
    return static_cast<double>(time) / 1e6 /
           static_cast<double>(std::max<std::uint64_t>(1, shard.engine->stats().micro_batches_total));
  };
  std::printf("per micro-batch (ms): lightning %.2f, softmax %.2f, experts %.2f, combine %.2f, head %.2f\n",
              ms(shard.busy.lightning), ms(shard.busy.softmax),
              ms(static_cast<Nanoseconds>(shard.dispatch_stats.compute_us_total) * kMicrosecond),
              ms(shard.busy.combine), ms(shard.busy.head));
}

Status run_local(const Options& options, std::shared_ptr<const model::Checkpoint> checkpoint,
                 const std::vector<int>& cpus, const kernels::Roofline& roofline) {
  const RealClock clock;
  kernels::BackendOptions kind;
  kind.kind = options.backend;
  kind.precision = options.activations == "f32" ? kernels::Precision::f32 : kernels::Precision::bf16;
  kind.threads = options.threads;
  if (cpus.size() >= options.threads) kind.cpus.assign(cpus.begin(), cpus.begin() + options.threads);
  kind.isa = options.isa;
  kind.device = options.gpu;
  kind.shape = checkpoint->config().shape();
  kind.expert_weights = kernels::expert_weights_of(options.expert_weights);
  FULGUR_ASSIGN_OR_RETURN(auto backend, kernels::make_backend(kind));
  mesh::LocalMeshOptions local;
  local.activations = options.activations == "f32" ? Dtype::f32 : Dtype::bf16;
  local.scheduler.slots = 32;
  local.scheduler.pages = 256;
  local.cache.bytes_max = options.prefix_cache_bytes;
  FULGUR_ASSIGN_OR_RETURN(auto mesh, mesh::LocalMesh::start(checkpoint, *backend, clock, local));
  bench::Target target;
  target.submit = [&](wire::Submit submit) { return mesh->submit(std::move(submit)); };
  target.tokens = [&](std::uint64_t request) { return mesh->generation(request).tokens.size(); };
  target.finished = [&](std::uint64_t request) { return mesh->finished(request); };
  target.wait = [&](const std::function<bool()>& done) {
    while (!done()) mesh->step();
  };
  const auto counters = [&] {
    const auto& shard = mesh->shard(0);
    return bench::WeightReads{static_cast<double>(shard.dispatch_stats.expert_groups_total),
                              static_cast<double>(shard.engine->stats().micro_batches_total)};
  };
  const ThreadClock thread_clock;
  const Clock& timer = options.cpu_time ? static_cast<const Clock&>(thread_clock) : clock;
  print(options, roofline,
        run_workloads(options, target, timer, checkpoint->config(), roofline, counters));
  if (!options.json) print_split(mesh->shard(0));
  return Status::ok();
}

void pin_to(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(static_cast<std::size_t>(cpu), &set);
  (void)sched_setaffinity(0, sizeof set, &set);
}

Status run(const Options& options) {
  FULGUR_ASSIGN_OR_RETURN(const auto checkpoint, model::Checkpoint::open(options.model));
  const std::vector<int> cpus = kernels::allowed_cpus();
  kernels::Roofline roofline;  // of a GPU it would be wrong: no bounds then
  if (options.backend == "cpu") {
    FULGUR_ASSIGN_OR_RETURN(roofline, kernels::measure_roofline(options.threads, cpus, options.isa));
  }
  if (options.mesh.empty()) return run_local(options, checkpoint, cpus, roofline);
  // Beside the shard, which waits while workers compute: left to itself the client is as often in the
  // way of a worker, which costs 2 to 3 % on two cores.
  pin_to(cpus.front());
  const RealClock clock;
  FULGUR_ASSIGN_OR_RETURN(const auto shard, bench::find_shard(options.mesh));
  FULGUR_ASSIGN_OR_RETURN(const auto mesh, bench::MeshTarget::connect(shard, clock));
  print(options, roofline, run_workloads(options, mesh->target(), clock, checkpoint->config(),
                                         roofline, [&] { return mesh->weight_reads(); }));
  return Status::ok();
}

}  // namespace

int main(int argc, char** argv) {
  tune_allocator();
  log::init("bench-engine", log::Level::warn);
  CLI::App app("Decode and prefill speed of the engine", "fulgur-bench-engine");
  Options options;
  app.add_option("--model", options.model, "checkpoint directory")->required();
  app.add_option("--mesh", options.mesh, "port of a running mesh, or the endpoint of one of its shards (then without bounds of decode); else one process");
  app.add_option("--threads", options.threads, "compute threads")->capture_default_str();
  app.add_option("--backend", options.backend, "what computes, without --mesh")->check(CLI::IsMember({"cpu", "cuda"}))->capture_default_str();
  app.add_option("--isa", options.isa, "instructions of backend cpu, and of the bound")->check(CLI::IsMember({"auto", "avx", "amx", "avx512bf16", "avx512", "avx2"}))->capture_default_str();
  app.add_option("--gpu", options.gpu, "number of the GPU of backend cuda")->capture_default_str();
  app.add_option("--expert-weights", options.expert_weights, "of backend cuda")->check(CLI::IsMember({"bf16", "fp8"}))->capture_default_str();
  app.add_option("--activations", options.activations)->check(CLI::IsMember({"bf16", "f32"}))->capture_default_str();
  app.add_option("--decode", options.decode, "batch sizes; 0: none")->delimiter(',')->capture_default_str();
  app.add_option("--prefill", options.prefill, "prompt lengths; 0: none")->delimiter(',')->capture_default_str();
  app.add_option("--steps", options.steps, "tokens a sequence")->capture_default_str();
  app.add_option("--repeats", options.repeats, "measurements; the median is printed")->capture_default_str();
  app.add_option("--seed", options.seed, "of the prompts; a mesh has the prompts of a seed in its cache after a run")->capture_default_str();
  app.add_option("--prefix-cache-bytes", options.prefix_cache_bytes, "of one process, as of a shard; with a cache, a prompt that ends on a multiple of 64 tokens takes one more pass")->capture_default_str();
  app.add_flag("--cpu-time", options.cpu_time, "time of the calling thread; with --threads 1");
  app.add_flag("--json", options.json);
  CLI11_PARSE(app, argc, argv);
  std::erase(options.decode, 0U);
  std::erase(options.prefill, 0U);
  if (const Status status = run(options); !status.is_ok()) {
    std::fprintf(stderr, "fulgur-bench-engine: %s\n", status.message().c_str());
    return 1;
  }
  return 0;
}
