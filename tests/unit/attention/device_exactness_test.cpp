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
