// The requests of the exactness tests, what they must give, and how it is compared: strictly. The
// yardstick is each request alone in one process.
#pragma once

#include <gtest/gtest.h>

#include <map>

#include "bench/mesh/local_mesh.hpp"
#include "common/base/rng.hpp"
#include "tests/support/source_dir.hpp"

namespace fulgur {

inline constexpr std::size_t kRequests = 12;

inline std::shared_ptr<const model::Checkpoint> tiny() {
  static const auto checkpoint =
      model::Checkpoint::open(test::source_path("models/fulgur-tiny")).value();
  return checkpoint;
}

/// Tests of devices compare with kernels of other instruction sets than AMX, whose bits are its own.
#ifdef FULGUR_TEST_CUDA
inline constexpr const char* kYardstickIsa = "avx";
#else
inline constexpr const char* kYardstickIsa = "auto";
#endif

inline kernels::Backend& backend(Dtype activations) {
  static const auto make = [](kernels::Precision precision) {
    kernels::CpuOptions options;
    options.precision = precision;
    options.isa = kYardstickIsa;
    return kernels::make_cpu_backend(options).value();
  };
  static const auto f32 = make(kernels::Precision::f32);
  static const auto bf16 = make(kernels::Precision::bf16);
  return activations == Dtype::f32 ? *f32 : *bf16;
}

/// Greedy and sampled requests of mixed lengths, some longer than a block, some than a page.
inline std::vector<wire::Submit> requests() {
  std::vector<wire::Submit> all;
  Rng rng(2026);
  for (std::size_t at = 0; at < kRequests; ++at) {
    wire::Submit submit;
    const std::size_t lengths[] = {3, 40, 64, 65, 130, 200, 17, 1, 300, 90, 128, 5};
    for (std::size_t i = 0; i < lengths[at]; ++i) {
      submit.tokens.push_back(static_cast<std::uint32_t>(rng.below(4096)));
    }
    submit.prompt_tokens = static_cast<std::uint32_t>(lengths[at]);
    submit.max_new_tokens = 12 + static_cast<std::uint32_t>(rng.below(20));
    // Some want nothing but greedy tokens: those a device chooses itself.
    submit.logprobs = at % 6 != 3;
    submit.top_logprobs = submit.logprobs ? 2 : 0;
    submit.prompt_logprobs = at % 5 == 1;
    submit.sampling.temperature = at % 3 == 0 ? 0.0F : 0.9F;
    submit.sampling.top_p = at % 2 == 0 ? 1.0F : 0.95F;
    submit.sampling.top_k = at % 4 == 1 ? 50 : 0;
    submit.sampling.repetition_penalty = at % 4 == 2 ? 1.1F : 1.0F;
    submit.sampling.seed = rng.next();
    all.push_back(std::move(submit));
  }
  return all;
}

inline void expect_same(const mesh::Generation& got, const mesh::Generation& want, std::size_t at) {
  ASSERT_EQ(got.end.code, Code::ok) << "request " << at << ": " << got.end.message;
  EXPECT_EQ(got.end.reason, want.end.reason) << "request " << at;
  EXPECT_EQ(got.tokens, want.tokens) << "request " << at;
  EXPECT_EQ(got.logprobs, want.logprobs) << "request " << at;
  EXPECT_EQ(got.top, want.top) << "request " << at;
  ASSERT_EQ(got.prompt.size(), want.prompt.size()) << "request " << at;
  for (std::size_t i = 0; i < got.prompt.size(); ++i) {
    EXPECT_EQ(got.prompt[i].logprob, want.prompt[i].logprob) << "request " << at << " prompt " << i;
  }
}

inline mesh::LocalMeshOptions plain(Dtype activations) {
  mesh::LocalMeshOptions options;
  options.activations = activations;
  options.scheduler.slots = 16;
  options.scheduler.pages = 128;
  return options;
}

/// Each request alone in a one-process mesh.
inline const std::vector<mesh::Generation>& yardstick(Dtype activations) {
  static std::map<Dtype, std::vector<mesh::Generation>> cache;
  auto& result = cache[activations];
  if (!result.empty()) return result;
  RealClock clock;
  auto mesh = mesh::LocalMesh::start(tiny(), backend(activations), clock, plain(activations)).value();
  for (const auto& submit : requests()) {
    const auto id = mesh->submit(submit);
    EXPECT_TRUE(mesh->run());
    result.push_back(mesh->generation(id));
  }
  return result;
}

}  // namespace fulgur
