// fulgur-bench-fp8: what FP8 experts cost a model in accuracy, on the CPU. For each way of
// computing one line of JSON: cosine of the logits to the float64 oracle of tests/golden, agreement
// of the greedy choice at every step of the golden continuations, divergence from the exact model's
// distribution there, and perplexity of a text.
#include <CLI/CLI.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <sstream>

#include "bench/fp8/fp8_backend.hpp"
#include "common/base/log.hpp"
#include "common/text/tokenizer.hpp"
#include "tests/support/direct_model.hpp"
#include "tests/support/golden.hpp"

using namespace fulgur;

namespace {

struct Options {
  std::string model = "models/fulgur-tiny";
  std::string golden = "tests/golden/fulgur-tiny";
  std::string text;
  std::size_t window = 512;
  std::size_t windows = 16;
};

constexpr std::size_t kChunk = 256;

struct Way {
  const char* name;
  Dtype activations;
  std::function<std::unique_ptr<kernels::Backend>()> make;
};

std::unique_ptr<kernels::Backend> plain(Dtype activations) {
  kernels::CpuOptions options;
  options.precision =
      activations == Dtype::f32 ? kernels::Precision::f32 : kernels::Precision::bf16;
  return kernels::make_cpu_backend(options).value();
}

std::vector<Way> ways() {
  const auto fp8 = [](Dtype activations, bench::Fp8Parts parts) {
    return [=] { return std::make_unique<bench::Fp8Backend>(plain(activations), parts); };
  };
  return {
      {"f32", Dtype::f32, [] { return plain(Dtype::f32); }},
      {"bf16", Dtype::bf16, [] { return plain(Dtype::bf16); }},
      {"f32, fp8 weights", Dtype::f32, fp8(Dtype::f32, bench::Fp8Parts::weights)},
      {"f32, fp8 experts", Dtype::f32, fp8(Dtype::f32, bench::Fp8Parts::weights_and_activations)},
      {"bf16, fp8 experts", Dtype::bf16,
       fp8(Dtype::bf16, bench::Fp8Parts::weights_and_activations)}};
}

double cosine(std::span<const float> a, std::span<const double> b) {
  double ab = 0, aa = 0, bb = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    ab += a[i] * b[i];
    aa += static_cast<double>(a[i]) * a[i];
    bb += b[i] * b[i];
  }
  return ab / std::sqrt(aa * bb);
}

/// Cosines over every row of logits that the golden holds, and how many routes are the oracle's.
void compare_logits(const Options& options, test::DirectModel& model, nlohmann::json& row) {
  const auto arrays = test::read_golden_arrays(options.golden + "/logits.safetensors");
  double least = 1, sum = 0;
  std::size_t rows = 0, routes = 0, same = 0;
  for (const auto& name : test::golden_cases(arrays)) {
    const auto& wide = arrays.at(name + ".ids").ints;
    const auto& logits = arrays.at(name + ".logits_tail");
    const auto& experts = arrays.at(name + ".experts").ints;
    const std::size_t vocab = logits.shape[1];
    const auto run =
        model.run(std::vector<std::uint32_t>(wide.begin(), wide.end()), logits.shape[0], kChunk);
    for (std::size_t i = 0; i < run.logits.size(); ++i) {
      const double value =
          cosine(run.logits[i], std::span(logits.floats).subspan(i * vocab, vocab));
      least = std::min(least, value);
      sum += value;
      ++rows;
    }
    std::size_t at = 0;
    for (const auto& layer : run.experts) {
      for (const std::uint16_t expert : layer) same += expert == experts[at++] ? 1 : 0;
    }
    routes += at;
  }
  row["logit_rows"] = rows;
  row["cosine_mean"] = sum / static_cast<double>(rows);
  row["cosine_least"] = least;
  row["routes_as_oracle"] = static_cast<double>(same) / static_cast<double>(routes);
}

std::size_t best(const std::vector<float>& logits) {
  return static_cast<std::size_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

/// log of the sum of exponentials of the logits.
double log_sum(const std::vector<float>& logits) {
  const double top = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - top);
  return top + std::log(sum);
}

/// Kullback-Leibler divergence of b's distribution from a's, in nats: by how much the logarithm of
/// the perplexity grows on text that a writes.
double divergence(const std::vector<float>& a, const std::vector<float>& b) {
  const double sum_a = log_sum(a), sum_b = log_sum(b);
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double log_a = a[i] - sum_a;
    sum += std::exp(log_a) * (log_a - (b[i] - sum_b));
  }
  return sum;
}

/// At every step of the oracle's continuation, from the oracle's own prefix. `exact`: the logits of
/// the first way, which fills them.
void compare_greedy(const Options& options, test::DirectModel& model, nlohmann::json& row,
                    std::vector<std::vector<float>>& exact) {
  std::size_t steps = 0, same = 0, whole = 0, cases = 0;
  double nats = 0;
  const bool first = exact.empty();
  for (const auto& golden : test::read_golden_generations(options.golden + "/generation.json")) {
    if (golden.greedy.empty()) continue;
    auto ids = golden.prompt_ids;
    ids.insert(ids.end(), golden.greedy.begin(), golden.greedy.end() - 1);
    const auto run = model.run(ids, golden.greedy.size(), kChunk);
    std::size_t here = 0;
    for (std::size_t i = 0; i < run.logits.size(); ++i) {
      if (first) exact.push_back(run.logits[i]);
      nats += divergence(exact[steps + i], run.logits[i]);
      here += best(run.logits[i]) == golden.greedy[i] ? 1 : 0;
    }
    steps += run.logits.size();
    same += here;
    whole += here == run.logits.size() ? 1 : 0;
    ++cases;
  }
  row["greedy_steps"] = steps;
  row["greedy_agreement"] = static_cast<double>(same) / static_cast<double>(steps);
  row["divergence_nats"] = nats / static_cast<double>(steps);
  row["greedy_cases"] = cases;
  row["greedy_cases_whole"] = whole;
}

/// Negative log-likelihood of `id` in nats.
double surprise(const std::vector<float>& logits, std::uint32_t id) {
  return log_sum(logits) - logits[id];
}

void measure_perplexity(const Options& options, const std::vector<std::uint32_t>& ids,
                        test::DirectModel& model, nlohmann::json& row) {
  double sum = 0;
  std::size_t count = 0;
  for (std::size_t at = 0;
       at + options.window <= ids.size() && at < options.windows * options.window;
       at += options.window) {
    const auto part = std::span(ids).subspan(at, options.window);
    const auto run = model.run(part, options.window, kChunk);
    for (std::size_t i = 0; i + 1 < part.size(); ++i, ++count) {
      sum += surprise(run.logits[i], part[i + 1]);
    }
  }
  if (count == 0) return;
  row["text_tokens"] = count;
  row["nats_per_token"] = sum / static_cast<double>(count);
  row["perplexity"] = std::exp(sum / static_cast<double>(count));
}

std::vector<std::uint32_t> tokens_of(const Options& options) {
  if (options.text.empty()) return {};
  std::ifstream file(options.text);
  std::stringstream content;
  content << file.rdbuf();
  return text::Tokenizer::load(options.model + "/tokenizer.json")
      .value()
      .encode(content.str())
      .value();
}

int run(const Options& options) {
  const auto checkpoint = model::Checkpoint::open(options.model).value();
  const auto ids = tokens_of(options);
  std::vector<std::vector<float>> exact;
  for (const Way& way : ways()) {
    const auto backend = way.make();
    test::DirectModel model(checkpoint, *backend, way.activations, 80);
    nlohmann::json row{{"way", way.name}};
    if (!options.golden.empty()) {
      compare_logits(options, model, row);
      compare_greedy(options, model, row, exact);
    }
    measure_perplexity(options, ids, model, row);
    std::printf("%s\n", row.dump().c_str());
    std::fflush(stdout);
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  log::init("bench-fp8", log::Level::warn);
  CLI::App app("What FP8 experts cost a model in accuracy", "fulgur-bench-fp8");
  Options options;
  app.add_option("--model", options.model, "checkpoint directory")->capture_default_str();
  app.add_option("--golden", options.golden, "its expected results; empty: only the text")
      ->capture_default_str();
  app.add_option("--text", options.text, "a text for perplexity");
  app.add_option("--window", options.window, "tokens of a piece of the text")
      ->check(CLI::Range(2, 4096))
      ->capture_default_str();
  app.add_option("--windows", options.windows, "pieces at most")->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  try {
    return run(options);
  } catch (const std::exception& failure) {  // a damaged golden or checkpoint
    std::fprintf(stderr, "fulgur-bench-fp8: %s\n", failure.what());
    return 1;
  }
}
