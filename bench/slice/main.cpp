// fulgur-bench-slice: speed of an M1-shaped slice (a few layers, embedding and head) with seeded
// weights on one GPU: decode by batch, prefill, and decode over growing contexts beside the same
// model with softmax attention only. One line of JSON a result. Times are medians by the host's
// clock around whole steps, which end with the choice of the next token.
#include <CLI/CLI.hpp>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <functional>
#include <nlohmann/json.hpp>

#include "bench/slice/slice_model.hpp"
#include "common/base/log.hpp"
#include "kernels/include/fulgur/kernels/make_backend.hpp"

using namespace fulgur;

namespace {

struct Options {
  std::string family = "auto";
  std::string expert_weights = "bf16";
  int gpu = 0;
  std::uint32_t lightning = 3;
  std::uint32_t softmax = 1;
  std::vector<std::uint32_t> decode{1, 16, 64, 128};
  std::vector<std::uint32_t> prefill{2048, 8192};
  std::uint32_t chunk = 2048;
  std::vector<std::uint64_t> contexts{1024, 4096, 16384, 65536, 262144, 1048576 - 64};
  std::uint32_t steps = 20;
  bool without_all_softmax = false;
  std::string graphs = "on";
  std::string sums = "fixed";
};

double milliseconds(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  const std::chrono::duration<double, std::milli> time = std::chrono::steady_clock::now() - start;
  return time.count();
}

double median_of(std::uint32_t repeats, const std::function<void()>& work) {
  for (int warm_up = 0; warm_up < 3; ++warm_up) work();
  std::vector<double> times;
  for (std::uint32_t i = 0; i < repeats; ++i) times.push_back(milliseconds(work));
  std::nth_element(times.begin(), times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2),
                   times.end());
  return times[times.size() / 2];
}

void say(const nlohmann::json& row) {
  std::printf("%s\n", row.dump().c_str());
  std::fflush(stdout);
}

std::vector<std::uint32_t> some_tokens(std::size_t count, std::uint32_t vocab) {
  std::vector<std::uint32_t> tokens(count);
  for (std::size_t i = 0; i < count; ++i) {
    tokens[i] = static_cast<std::uint32_t>((i * 7919 + 13) % vocab);
  }
  return tokens;
}

/// What the backend's CUDA graphs did since `before`.
nlohmann::json graphs_since(const kernels::GraphCounts& before, const kernels::Backend& backend) {
  const kernels::GraphCounts now = backend.graph_counts();
  return {{"captured", now.captured - before.captured},
          {"replayed", now.replayed - before.replayed},
          {"refused", now.refused - before.refused},
          {"bytes", now.bytes - before.bytes}};
}

/// A decode step's parts by layer kind, to see where the time goes.
nlohmann::json parts_of(bench::SliceModel& slice, kernels::Backend& backend,
                        std::uint32_t repeats) {
  nlohmann::json parts;
  float probe = 0;
  const auto vector = backend.allocate(sizeof probe);
  const auto settled = [&](const std::function<void()>& work) {
    return median_of(repeats, [&] {
      work();
      backend.download(&probe, vector.get(), sizeof probe);  // waits for the stream
    });
  };
  const std::size_t last = slice.config().layers - 1;
  parts["first_layer_attend_ms"] = settled([&] { slice.attend(0); });
  parts["last_layer_attend_ms"] = settled([&] { slice.attend(last); });
  parts["experts_ms"] = settled([&] { slice.run_experts(last); });
  parts["combine_ms"] = settled([&] { slice.combine(last); });
  parts["head_ms"] = settled([&] { slice.head(); });
  parts["choose_ms"] = settled([&] { (void)slice.choose(); });
  return parts;
}

void measure_decode(const Options& options, bench::SliceModel& slice, kernels::Backend& backend) {
  constexpr std::uint64_t kPosition = 512;
  for (const std::uint32_t batch : options.decode) {
    const auto tokens = some_tokens(batch, slice.config().vocab);
    const kernels::GraphCounts before = backend.graph_counts();
    const double ms = median_of(options.steps, [&] { (void)slice.step(tokens, batch, kPosition); });
    say({{"kind", "decode"},
         {"batch", batch},
         {"context", kPosition},
         {"ms", ms},
         {"tokens_per_s", batch * 1e3 / ms},
         {"graphs", graphs_since(before, backend)},
         {"parts", parts_of(slice, backend, options.steps)}});
  }
}

void measure_prefill(const Options& options, bench::SliceModel& slice) {
  for (const std::uint32_t prompt : options.prefill) {
    const auto tokens = some_tokens(prompt, slice.config().vocab);
    const double ms = median_of(3, [&] {
      for (std::uint32_t at = 0; at < prompt; at += options.chunk) {
        const auto end = std::min(at + options.chunk, prompt);
        (void)slice.step({tokens.begin() + at, tokens.begin() + end}, 1, at);
      }
    });
    say({{"kind", "prefill"},
         {"tokens", prompt},
         {"chunk", options.chunk},
         {"ms", ms},
         {"tokens_per_s", prompt * 1e3 / ms}});
  }
}

void measure_contexts(const Options& options, bench::SliceModel& slice, kernels::Backend& backend,
                      const std::string& model) {
  const auto& config = slice.config();
  for (const std::uint64_t context : options.contexts) {
    const auto tokens = some_tokens(1, config.vocab);
    const kernels::GraphCounts before = backend.graph_counts();
    const double ms = median_of(options.steps, [&] { (void)slice.step(tokens, 1, context); });
    const double kv = static_cast<double>(config.kv_bytes_per_token() * context);
    const double state = static_cast<double>(config.state_bytes_per_sequence());
    say({{"kind", "context"},
         {"model", model},
         {"context", context},
         {"ms", ms},
         {"sequence_bytes", kv + state},
         {"graphs", graphs_since(before, backend)},
         {"parts", parts_of(slice, backend, options.steps)}});
  }
}

std::uint32_t pages_for(const Options& options) {
  std::uint64_t tokens = 64;
  for (const auto context : options.contexts) tokens = std::max(tokens, context + 64);
  for (const auto prompt : options.prefill) tokens = std::max<std::uint64_t>(tokens, prompt);
  for (const auto batch : options.decode) tokens = std::max<std::uint64_t>(tokens, batch * 640);
  return static_cast<std::uint32_t>(tokens / kernels::kPageTokens + 1);
}

kernels::CudaFamily family_of(const std::string& name) {
  if (name == "portable") return kernels::CudaFamily::portable;
  return name == "sm90" ? kernels::CudaFamily::sm90 : kernels::CudaFamily::automatic;
}

Status run(const Options& options) {
  const auto config = bench::m1_slice(options.lightning, options.softmax);
  const std::size_t graphs_max = options.graphs == "on" ? kernels::kGraphsMax : 0;
  const auto sums = options.sums == "free" ? kernels::Sums::free : kernels::Sums::fixed;
  FULGUR_ASSIGN_OR_RETURN(
      const auto backend,
      kernels::make_backend({.kind = "cuda",
                             .device = options.gpu,
                             .family = family_of(options.family),
                             .shape = config.shape(),
                             .expert_weights = kernels::expert_weights_of(options.expert_weights),
                             .graphs_max = graphs_max,
                             .sums = sums}));
  const std::uint32_t slots = *std::max_element(options.decode.begin(), options.decode.end());
  {
    bench::SliceModel slice(config, *backend, slots, pages_for(options));
    say({{"kind", "slice"},
         {"numerics", backend->numerics()},
         {"sums", options.sums},
         {"lightning_layers", options.lightning},
         {"softmax_layers", options.softmax},
         {"weight_bytes", slice.weight_bytes()},
         {"state_bytes", slice.state_bytes()},
         {"graphs", options.graphs}});
    measure_decode(options, slice, *backend);
    measure_prefill(options, slice);
    measure_contexts(options, slice, *backend, "hybrid");
  }
  if (options.without_all_softmax) return Status::ok();
  const auto dense = bench::m1_slice(0, options.lightning + options.softmax);
  bench::SliceModel slice(dense, *backend, 1, pages_for(options));
  measure_contexts(options, slice, *backend, "all softmax");
  return Status::ok();
}

}  // namespace

int main(int argc, char** argv) {
  log::init("bench-slice", log::Level::warn);
  CLI::App app("Speed of an M1-shaped slice with synthetic weights on one GPU",
               "fulgur-bench-slice");
  Options options;
  app.add_option("--kernels", options.family, "family of kernels")
      ->check(CLI::IsMember({"auto", "portable", "sm90"}))
      ->capture_default_str();
  app.add_option("--expert-weights", options.expert_weights, "how experts are kept")
      ->check(CLI::IsMember({"bf16", "fp8"}))
      ->capture_default_str();
  app.add_option("--gpu", options.gpu)->capture_default_str();
  app.add_option("--lightning", options.lightning, "lightning layers")->capture_default_str();
  app.add_option("--softmax", options.softmax, "softmax layers")->capture_default_str();
  app.add_option("--decode", options.decode, "batch sizes")->delimiter(',')->capture_default_str();
  app.add_option("--prefill", options.prefill, "prompt lengths")
      ->delimiter(',')
      ->capture_default_str();
  app.add_option("--chunk", options.chunk, "tokens of a prefill step")->capture_default_str();
  app.add_option("--contexts", options.contexts, "contexts of a decode step")
      ->delimiter(',')
      ->capture_default_str();
  app.add_option("--steps", options.steps, "steps measured; the median is printed")
      ->check(CLI::Range(1, 10000))
      ->capture_default_str();
  app.add_flag("--hybrid-only", options.without_all_softmax,
               "not the model of softmax layers only");
  app.add_option("--graphs", options.graphs, "CUDA graphs of attention blocks")
      ->check(CLI::IsMember({"on", "off"}))
      ->capture_default_str();
  app.add_option("--sums", options.sums, "order of sums: exact mode's, or the kernels' choice")
      ->check(CLI::IsMember({"fixed", "free"}))
      ->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  try {
    if (const Status status = run(options); !status.is_ok()) {
      std::fprintf(stderr, "fulgur-bench-slice: %s\n", status.message().c_str());
      return 1;
    }
  } catch (const std::exception& failure) {  // no memory, a failed launch
    std::fprintf(stderr, "fulgur-bench-slice: %s\n", failure.what());
    return 1;
  }
  return 0;
}
