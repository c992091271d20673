// Linked into a test binary that needs the GPU it is built for: without one all its tests are
// skipped, or, where FULGUR_GPU_REQUIRED is set (bench/gpu/run.sh), the binary fails.
#include <gtest/gtest.h>

#include <cstdlib>

#include "tests/support/device_backend.hpp"

namespace fulgur::test {
namespace {

class NeedsDevice : public testing::Environment {
  void SetUp() override {
    const auto made = make_device_backend(kernels::Precision::bf16);
    if (made.is_ok()) return;
    if (std::getenv("FULGUR_GPU_REQUIRED") != nullptr) FAIL() << made.status().message();
    GTEST_SKIP() << made.status().message();
  }
};

const testing::Environment* const registered = testing::AddGlobalTestEnvironment(new NeedsDevice);

}  // namespace
}  // namespace fulgur::test
