// The model against the float64 oracle (tests/golden): logits, last hidden states, routes, for every
// length and layout, in both activation types; and greedy continuations through the whole engine.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "bench/mesh/local_mesh.hpp"
#include "tests/support/direct_model.hpp"
#include "tests/support/golden.hpp"

namespace fulgur {
namespace {

struct Model {
  const char* name;       ///< folder in tests/golden
  const char* directory;  ///< checkpoint
};

constexpr Model kTiny{"fulgur-tiny", "models/fulgur-tiny"};
constexpr Model kM1{"m1-random-small", "tests/golden/models/m1-random-small"};
constexpr Model kFused{"m1-random-small-fused", "tests/golden/models/m1-random-small-fused"};

std::string source(const std::string& path) { return FULGUR_SOURCE_DIR "/" + path; }

std::shared_ptr<const model::Checkpoint> open(const Model& model) {
  return model::Checkpoint::open(source(model.directory)).value();
}

/// The best instructions, and the best but AMX: the two orders of sums.
std::vector<std::string> isas(Dtype activations) {
  const auto numerics = [](const std::string& isa) {
    return kernels::make_cpu_backend({.isa = isa}).value()->numerics();
  };
  if (activations == Dtype::f32 || numerics("auto") == numerics("avx")) return {"auto"};
  return {"auto", "avx"};
}

std::unique_ptr<kernels::Backend> cpu_backend(Dtype activations, const std::string& isa) {
  kernels::CpuOptions options;
  options.isa = isa;
  options.precision = activations == Dtype::f32 ? kernels::Precision::f32 : kernels::Precision::bf16;
  return kernels::make_cpu_backend(options).value();
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

/// Calls check(case name, expected arrays, our run) for every case of a model's golden.
template <class Check>
void for_each_case(const Model& model, Dtype activations, Check check) {
  const auto arrays = test::read_golden_arrays(source("tests/golden/") + model.name + "/logits.safetensors");
  for (const std::string& isa : isas(activations)) {
    SCOPED_TRACE(isa);
    auto backend = cpu_backend(activations, isa);
    test::DirectModel direct(open(model), *backend, activations, 80);
    for (const auto& name : test::golden_cases(arrays)) {
      const auto& wide = arrays.at(name + ".ids").ints;
      const std::vector<std::uint32_t> ids(wide.begin(), wide.end());
      const std::size_t tail = arrays.at(name + ".logits_tail").shape[0];
      check(name, arrays, direct.run(ids, tail, 256));
    }
  }
}

class Golden : public testing::TestWithParam<Model> {};

TEST_P(Golden, F32MatchesTheOracle) {
  for_each_case(GetParam(), Dtype::f32, [](const auto& name, const auto& arrays, const auto& run) {
    const auto& logits = arrays.at(name + ".logits_tail");
    const std::size_t vocab = logits.shape[1];
    double worst = 0;
    for (std::size_t row = 0; row < run.logits.size(); ++row) {
      for (std::size_t id = 0; id < vocab; ++id) {
        worst = std::max(worst, std::abs(run.logits[row][id] - logits.floats[row * vocab + id]));
      }
    }
    EXPECT_LE(worst, 2e-3) << name;
    // Routes: identical, but for positions where the oracle itself was undecided.
    const auto& experts = arrays.at(name + ".experts");
    const auto& weights = arrays.at(name + ".weights");
    std::size_t different = 0;
    double weight_error = 0;
    for (std::size_t layer = 0; layer < run.experts.size(); ++layer) {
      const std::size_t routes = run.experts[layer].size();
      for (std::size_t at = 0; at < routes; ++at) {
        const bool same = run.experts[layer][at] == experts.ints[layer * routes + at];
        different += same ? 0 : 1;
        if (same) {
          weight_error = std::max(weight_error, std::abs(run.weights[layer][at] -
                                                         weights.floats[layer * routes + at]));
        }
      }
    }
    EXPECT_EQ(different, 0U) << name;
    EXPECT_LE(weight_error, 1e-3) << name;
  });
}

/// Whether the token at `position` went through the oracle's experts in every layer.
bool routed_as_oracle(const test::GoldenArray& experts, const test::DirectRun& run,
                      std::size_t position) {
  const std::size_t k = experts.shape[2];
  for (std::size_t layer = 0; layer < run.experts.size(); ++layer) {
    for (std::size_t slot = 0; slot < k; ++slot) {
      const std::size_t at = position * k + slot;
      if (run.experts[layer][at] != experts.ints[layer * experts.shape[1] * k + at]) return false;
    }
  }
  return true;
}

// The trained model decides its routes: every row must be close. The random ones are full of near
// ties that rounding tips, and then another function is computed: a row is judged where its own route
// was the oracle's, strictly while no earlier token of its sequence was routed differently.
TEST_P(Golden, Bf16StaysClose) {
  const bool trained = std::string(GetParam().name) == "fulgur-tiny";
  std::size_t rows = 0;
  std::size_t rerouted = 0;
  for_each_case(GetParam(), Dtype::bf16, [&](const auto& name, const auto& arrays, const auto& run) {
    const auto& logits = arrays.at(name + ".logits_tail");
    const auto& experts = arrays.at(name + ".experts");
    const std::size_t vocab = logits.shape[1];
    const std::size_t first = experts.shape[1] - run.logits.size();
    bool prefix_same = true;
    for (std::size_t position = 0; position < experts.shape[1]; ++position) {
      const bool same = routed_as_oracle(experts, run, position);
      prefix_same &= same;
      if (position < first) continue;
      ++rows;
      rerouted += same ? 0 : 1;
      if (!same && !trained) continue;
      const std::size_t row = position - first;
      const auto expected = std::span(logits.floats).subspan(row * vocab, vocab);
      EXPECT_GE(cosine(run.logits[row], expected), trained || prefix_same ? 0.999 : 0.99)
          << name << " row " << row;
    }
  });
  EXPECT_LE(rerouted, rows / 2) << "of " << rows;
}

INSTANTIATE_TEST_SUITE_P(Models, Golden, testing::Values(kTiny, kM1, kFused),
                         [](const auto& info) {
                           std::string name = info.param.name;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

/// Greedy ids through scheduler, messages and experts; equal to the oracle's up to its first step
/// whose two best logits are closer than `gap_min`.
void expect_greedy(const Model& model, Dtype activations, double gap_min, const std::string& isa) {
  SCOPED_TRACE(isa);
  RealClock clock;
  auto backend = cpu_backend(activations, isa);
  mesh::LocalMeshOptions options;
  options.activations = activations;
  options.scheduler.slots = 8;
  options.scheduler.pages = 128;
  auto mesh = mesh::LocalMesh::start(open(model), *backend, clock, options).value();
  const auto cases = test::read_golden_generations(source("tests/golden/") + model.name + "/generation.json");
  std::vector<std::uint64_t> ids;
  for (const auto& expected : cases) {
    wire::Submit submit;
    submit.tokens = expected.prompt_ids;
    submit.prompt_tokens = static_cast<std::uint32_t>(expected.prompt_ids.size());
    submit.max_new_tokens = static_cast<std::uint32_t>(expected.greedy.size());
    submit.sampling.temperature = 0;
    submit.logprobs = true;
    submit.top_logprobs = 2;
    ids.push_back(mesh->submit(submit));
  }
  ASSERT_TRUE(mesh->run());
  for (std::size_t at = 0; at < cases.size(); ++at) {
    const auto& generation = mesh->generation(ids[at]);
    ASSERT_EQ(generation.end.code, Code::ok) << generation.end.message;
    for (std::size_t step = 0; step < cases[at].greedy.size(); ++step) {
      const auto& top = generation.top.at(step);
      if (cases[at].min_gap < gap_min && top[0].logprob - top[1].logprob < gap_min) break;
      ASSERT_EQ(generation.tokens[step], cases[at].greedy[step]) << "case " << at << " step " << step;
    }
  }
}

TEST(Greedy, F32FollowsTheOracle) {
  expect_greedy(kTiny, Dtype::f32, 2e-3, "auto");
  expect_greedy(kM1, Dtype::f32, 2e-3, "auto");
}

TEST(Greedy, Bf16FollowsTheOracleUpToNearTies) {
  for (const std::string& isa : isas(Dtype::bf16)) {
    expect_greedy(kTiny, Dtype::bf16, 0.1, isa);
    expect_greedy(kM1, Dtype::bf16, 0.1, isa);
  }
}

}  // namespace
}  // namespace fulgur
