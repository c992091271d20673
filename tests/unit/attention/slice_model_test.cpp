// The model of fulgur-bench-slice, small: a prompt gives the same tokens whole, in chunks, token by
// token, and in company. On the device of the test binary with every family of kernels it has.
#include <gtest/gtest.h>

#include "bench/slice/slice_model.hpp"
#include "tests/support/device_backend.hpp"

namespace fulgur {
namespace {

model::ModelConfig small() {
  auto config = bench::m1_slice(2, 1);
  config.hidden = 256;
  config.heads = 8;
  config.kv_heads = 1;
  config.experts = 4;
  config.expert_inner = 128;
  config.vocab = 520;
  return config;
}

std::vector<std::unique_ptr<kernels::Backend>> families(const model::ModelConfig& config) {
  std::vector<std::unique_ptr<kernels::Backend>> backends;
  backends.push_back(test::make_device_backend(kernels::Precision::bf16).value());
#if FULGUR_TEST_CUDA != 1
  auto fast = kernels::make_cuda_backend(
      {.family = kernels::CudaFamily::sm90, .shape = config.shape(), .strict = true});
  if (fast.is_ok()) backends.push_back(std::move(fast).value());
#else
  (void)config;
#endif
  return backends;
}

std::vector<std::uint32_t> prompt(std::size_t count, std::uint32_t seed) {
  std::vector<std::uint32_t> tokens(count);
  for (std::size_t i = 0; i < count; ++i) {
    tokens[i] = static_cast<std::uint32_t>((i * 31 + seed * 97 + i * i * 7) % 520);
  }
  return tokens;
}

TEST(SliceModel, APromptGivesTheSameTokenHoweverItIsCut) {
  const auto config = small();
  for (const auto& backend : families(config)) {
    bench::SliceModel slice(config, *backend, 3, 16);
    const auto tokens = prompt(90, 1);
    const auto whole = slice.step(tokens, 1, 0);
    EXPECT_LT(whole[0], config.vocab);
    for (const std::size_t chunk : {64U, 37U, 1U}) {
      std::vector<std::uint32_t> last;
      for (std::size_t at = 0; at < tokens.size(); at += chunk) {
        const auto end = std::min(at + chunk, tokens.size());
        last = slice.step({tokens.begin() + static_cast<std::ptrdiff_t>(at),
                           tokens.begin() + static_cast<std::ptrdiff_t>(end)},
                          1, at);
      }
      EXPECT_EQ(last, whole) << backend->name() << " in chunks of " << chunk;
    }
  }
}

TEST(SliceModel, CompanyDoesNotMatter) {
  const auto config = small();
  for (const auto& backend : families(config)) {
    bench::SliceModel slice(config, *backend, 3, 16);
    std::vector<std::uint32_t> alone, all;
    for (std::uint32_t s = 0; s < 3; ++s) {
      const auto tokens = prompt(70, s);
      alone.push_back(slice.step(tokens, 1, 0)[0]);
      all.insert(all.end(), tokens.begin(), tokens.end());
    }
    EXPECT_EQ(slice.step(all, 3, 0), alone) << backend->name();
  }
}

}  // namespace
}  // namespace fulgur
