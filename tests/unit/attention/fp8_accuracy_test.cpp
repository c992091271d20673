// FP8 experts on the bundled model, as the CPU computes them: the logits stay close to the float64
// oracle's. fulgur-bench-fp8 measures the same at length; this notices when the format breaks.
#include <gtest/gtest.h>

#include <cmath>

#include "bench/fp8/fp8_backend.hpp"
#include "tests/support/direct_model.hpp"
#include "tests/support/golden.hpp"

namespace fulgur {
namespace {

double cosine(std::span<const float> a, std::span<const double> b) {
  double ab = 0, aa = 0, bb = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    ab += a[i] * b[i];
    aa += static_cast<double>(a[i]) * a[i];
    bb += b[i] * b[i];
  }
  return ab / std::sqrt(aa * bb);
}

TEST(Fp8Accuracy, LogitsOfTheBundledModelStayClose) {
  const std::string source = FULGUR_SOURCE_DIR;
  const auto arrays =
      test::read_golden_arrays(source + "/tests/golden/fulgur-tiny/logits.safetensors");
  bench::Fp8Backend backend(kernels::make_cpu_backend({}).value(),
                            bench::Fp8Parts::weights_and_activations);
  test::DirectModel model(model::Checkpoint::open(source + "/models/fulgur-tiny").value(), backend,
                          Dtype::bf16, 80);
  for (const char* name : {"short", "n200", "n256"}) {
    const auto& wide = arrays.at(std::string(name) + ".ids").ints;
    const auto& logits = arrays.at(std::string(name) + ".logits_tail");
    const std::size_t vocab = logits.shape[1];
    const auto run =
        model.run(std::vector<std::uint32_t>(wide.begin(), wide.end()), logits.shape[0], 256);
    for (std::size_t row = 0; row < run.logits.size(); ++row) {
      const auto expected = std::span(logits.floats).subspan(row * vocab, vocab);
      EXPECT_GE(cosine(run.logits[row], expected), 0.99) << name << " row " << row;
    }
  }
}

}  // namespace
}  // namespace fulgur
