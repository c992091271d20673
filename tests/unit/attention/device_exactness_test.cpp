// The engine and the model on the CUDA backend with portable kernels, against the CPU backend:
// equal bits, so that everything proved of the CPU (goldens, I1) holds there, too. Emulated in
// every build (short cases), on a GPU where there is one (all of them).
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/support/device_backend.hpp"
#include "tests/support/direct_model.hpp"
#include "tests/support/golden.hpp"
#include "tests/unit/attention/exact_requests.hpp"

namespace fulgur {
namespace {

constexpr bool kEmulated = FULGUR_TEST_CUDA == 1;

kernels::Precision precision_of(Dtype activations) {
  return activations == Dtype::f32 ? kernels::Precision::f32 : kernels::Precision::bf16;
}

std::unique_ptr<kernels::Backend> device(Dtype activations, bool strict = false) {
  return test::make_device_backend(precision_of(activations), strict).value();
}

class DeviceExactness : public testing::TestWithParam<Dtype> {
 protected:
  /// Runs requests (every step-th) on a mesh of the device's backend; expects the CPU's answers, and
  /// that serving asks for no memory.
  static void expect_cpu_answers(mesh::LocalMeshOptions options, std::size_t step = 1) {
    RealClock clock;
    const auto backend = device(GetParam());
    auto mesh = mesh::LocalMesh::start(tiny(), *backend, clock, std::move(options)).value();
    const std::uint64_t allocations = backend->allocations_total();
    const auto all = requests();
    std::map<std::size_t, std::uint64_t> ids;
    for (std::size_t at = 0; at < all.size(); at += step) {
      ids[at] = mesh->submit(all[at]);
      for (int pass = 0; pass < 20; ++pass) mesh->step();
    }
    ASSERT_TRUE(mesh->run());
    EXPECT_EQ(backend->allocations_total(), allocations);
    for (const auto& [at, id] : ids) {
      expect_same(mesh->generation(id), yardstick(GetParam())[at], at);
    }
  }
};

TEST_P(DeviceExactness, TokensAreTheCpus) {
  auto options = plain(GetParam());
  options.scheduler.batch_tokens = 100;
  expect_cpu_answers(options, kEmulated ? 2 : 1);
}

TEST_P(DeviceExactness, TokensAreTheCpusOverWorkersAndLanes) {
  auto options = plain(GetParam());
  options.workers = 2;
  options.scheduler.lanes = 2;
  options.scheduler.lane_rows_min = 1;
  options.scheduler.batch_tokens = 64;
  expect_cpu_answers(options, kEmulated ? 5 : 1);
}

TEST_P(DeviceExactness, StatesGoToHostMemoryAndBack) {
  auto options = plain(GetParam());
  options.scheduler.slots = 4;
  options.scheduler.pages = 8;
  expect_cpu_answers(options, kEmulated ? 3 : 1);
}

TEST_P(DeviceExactness, RankedDrawsAreTheCpus) {
  // Without log-probabilities, of which the device does not promise the CPU's bits.
  auto all = requests();
  if (kEmulated) all.resize(8);
  for (std::size_t at = 0; at < all.size(); ++at) {
    wire::Submit& submit = all[at];
    submit.logprobs = submit.prompt_logprobs = false;
    submit.top_logprobs = 0;
    auto& sampling = submit.sampling;
    sampling.temperature = at % 4 == 3 ? 0.0F : 1.0F;
    sampling.top_k = at % 3 == 0 ? 40 : at % 3 == 1 ? 200 : 0;
    sampling.top_p = at % 2 == 0 ? 0.95F : 1.0F;
    sampling.min_p = at % 3 == 2 ? 0.02F : 0.0F;
    sampling.repetition_penalty = at % 2 == 1 ? 1.3F : 1.0F;
    sampling.frequency_penalty = at % 4 >= 2 ? 0.5F : 0.0F;
    if (at % 4 == 0) sampling.logit_bias = {{5, 2.0F}, {17, -100.0F}};
    submit.stop_ids = {submit.tokens[0], 9};
    submit.min_new_tokens = at % 2 == 0 ? 6 : 0;
  }
  RealClock clock;
  const auto gpu = device(GetParam());
  std::vector<mesh::Generation> got[2];
  kernels::Backend* backends[] = {gpu.get(), &backend(GetParam())};
  for (std::size_t on = 0; on < 2; ++on) {
    auto mesh = mesh::LocalMesh::start(tiny(), *backends[on], clock, plain(GetParam())).value();
    std::vector<std::uint64_t> ids;
    for (const wire::Submit& submit : all) ids.push_back(mesh->submit(submit));
    ASSERT_TRUE(mesh->run());
    for (const std::uint64_t id : ids) got[on].push_back(mesh->generation(id));
  }
  for (std::size_t at = 0; at < all.size(); ++at) expect_same(got[0][at], got[1][at], at);
}

TEST_P(DeviceExactness, LogitsOfTheGoldensAreTheCpus) {
  for (const char* model : {"m1-random-small", "fulgur-tiny"}) {
    const bool bundled = std::string(model) == "fulgur-tiny";
    const std::string folder = bundled ? "models/" : "tests/golden/models/";
    const auto checkpoint = model::Checkpoint::open(test::source_path(folder + model)).value();
    const auto arrays = test::read_golden_arrays(
        test::source_path(std::string("tests/golden/") + model + "/logits.safetensors"));
    const auto gpu = device(GetParam(), kEmulated);
    test::DirectModel expected(checkpoint, backend(GetParam()), GetParam(), 80);
    test::DirectModel computed(checkpoint, *gpu, GetParam(), 80);
    std::size_t cases = 0;
    for (const auto& name : test::golden_cases(arrays)) {
      const auto& wide = arrays.at(name + ".ids").ints;
      if (kEmulated && wide.size() > 150) continue;
      ++cases;
      const std::vector<std::uint32_t> ids(wide.begin(), wide.end());
      const auto want = expected.run(ids, 4, 256);
      const auto got = computed.run(ids, 4, 100);
      EXPECT_EQ(got.logits, want.logits) << model << " " << name;
      EXPECT_EQ(got.hidden, want.hidden) << model << " " << name;
      EXPECT_EQ(got.experts, want.experts) << model << " " << name;
      EXPECT_EQ(got.weights, want.weights) << model << " " << name;
    }
    EXPECT_GT(cases, 0U);
  }
}

INSTANTIATE_TEST_SUITE_P(Activations, DeviceExactness, testing::Values(Dtype::f32, Dtype::bf16),
                         [](const auto& info) { return std::string(to_string(info.param)); });

}  // namespace
}  // namespace fulgur
