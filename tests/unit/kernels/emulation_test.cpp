// The emulated GPU itself, and what the CUDA backend makes of machines it cannot serve on.
#include <gtest/gtest.h>

#include <sys/mman.h>

#include <cstring>

#include "common/base/rng.hpp"
#include "kernels/cuda/emulation/emulated_backend.hpp"
#include "kernels/cuda/emulation/emulation.hpp"
#include "tests/unit/kernels/fixtures.hpp"

namespace fulgur::kernels::testing {
namespace {

/// Another machine for the length of a test.
class EmulationTest : public ::testing::Test {
 protected:
  void TearDown() override { emulation::machine() = {}; }

  static std::string why_not(const CudaOptions& options = {}) {
    const auto made = make_emulated_cuda_backend(options);
    return made.is_ok() ? "" : made.status().message();
  }
};

TEST_F(EmulationTest, MachinesThatCannotServeAreRefusedInOneLine) {
  emulation::machine().driver = 0;
  EXPECT_EQ(why_not(), "cuda backend: this machine has no NVIDIA driver");
  emulation::machine().driver = 12040;
  EXPECT_EQ(why_not(), "cuda backend: the NVIDIA driver supports CUDA 12.4, this build needs 13.0");
  emulation::machine() = {.devices = 0};
  EXPECT_EQ(why_not(), "cuda backend: no GPU: no CUDA-capable device is detected");
  emulation::machine() = {.devices = 2};
  EXPECT_EQ(why_not({.device = 2, .shape = {}}), "cuda backend: no GPU 2: this machine has 2");
  emulation::machine() = {.major = 7, .minor = 5};
  EXPECT_EQ(why_not(), "cuda backend: GPU 0 is sm_75, sm_80 or newer is needed");
  emulation::machine() = {.memory = 1 << 20};
  EXPECT_EQ(why_not(), "cuda: GPU 0 has no memory for 0.01 GiB more: 0.00 of 0.00 GiB are free");
}

TEST_F(EmulationTest, NumericsNameTheFamily) {
  for (const Precision precision : {Precision::f32, Precision::bf16}) {
    const auto backend = make_emulated_cuda_backend({.precision = precision, .shape = {}}).value();
    EXPECT_EQ(backend->numerics(), std::string("cuda-portable-") + name_of(precision));
    EXPECT_FALSE(backend->host_memory());
    EXPECT_EQ(make_reference_backend(precision)->numerics(),
              std::string("cpu-") + name_of(precision));
  }
}

TEST_F(EmulationTest, MemoryRunsOutWithAnExceptionAndComesBack) {
  emulation::machine().memory = std::size_t{256} << 20;
  const auto backend = make_emulated_cuda_backend({}).value();
  const std::size_t before = backend->memory_available();
  std::vector<std::shared_ptr<std::byte>> pieces;
  EXPECT_THROW(
      {
        while (true) pieces.push_back(backend->allocate(std::size_t{30} << 20));
      },
      std::bad_alloc);
  EXPECT_GE(pieces.size(), 6U);
  pieces.erase(pieces.begin() + 1, pieces.begin() + 4);
  pieces.push_back(backend->allocate(std::size_t{30} << 20));  // into a hole
  pieces.clear();
  EXPECT_EQ(backend->memory_available(), before);
  EXPECT_NO_THROW(backend->allocate(std::size_t{60} << 20)) << "neighbours have joined";
}

/// Operations whose scratch, pinned memory and buffers grow from call to call; the last results.
std::vector<float> growing_calls(Backend& backend, bool keep_going = false) {
  constexpr std::size_t kCols = 192, kOut = 8;
  Rng rng(9);
  const HostWeight weight = random_weight(rng, kOut, kCols, Dtype::bf16);
  const HostMatrix parts[] = {weight.matrix()};
  const auto matrix = backend.pack(parts);
  Buffer<float> x, y;
  std::vector<float> result;
  for (const std::size_t rows : {8UL, 600UL, 12'000UL}) {
    const auto host = random_floats(rng, rows * kCols);
    result.assign(rows, kPoison);
    for (bool done = false; !done;) {
      try {
        float* input = x.reserve(backend, rows * kCols);
        float* output = y.reserve(backend, rows * kOut);
        backend.upload(reinterpret_cast<std::byte*>(input), host.data(), host.size() * 4);
        backend.matmul(input, rows, *matrix, output);
        std::vector<std::uint32_t> first(rows);
        std::vector<float> column(rows * kOut);
        for (std::uint32_t i = 0; i < rows; ++i) first[i] = i;
        backend.gather(output, first, kOut, Dtype::f32,
                       reinterpret_cast<std::byte*>(column.data()));
        for (std::size_t i = 0; i < rows; ++i) result[i] = column[i * kOut + i % kOut];
        done = true;
      } catch (const std::bad_alloc&) {
        if (!keep_going) throw;
      }
    }
  }
  return result;
}

TEST_F(EmulationTest, EveryRefusedRequestLeavesABackendThatGoesOn) {
  emulation::machine().memory = std::size_t{60} << 20;  // no chunk fits: each piece is asked for
  for (const bool strict : {false, true}) {
    const CudaOptions options{.shape = {}, .strict = strict};
    const std::uint64_t before = emulation::requests_total();
    const auto expected = growing_calls(*make_emulated_cuda_backend(options).value());
    const std::uint64_t requests = emulation::requests_total() - before;
    EXPECT_GT(requests, 5U);
    std::uint64_t refused = 0;
    for (std::uint64_t n = 1; n <= requests; ++n) {
      emulation::machine().refuse_in = n;
      auto made = make_emulated_cuda_backend(options);
      if (!made.is_ok()) {
        ++refused;
        continue;
      }
      try {
        EXPECT_TRUE(same_bits(growing_calls(*made.value(), true), expected)) << n;
      } catch (const std::bad_alloc&) {
        ++refused;  // packing, which nobody tries again here
      }
      EXPECT_EQ(emulation::machine().refuse_in, 0U) << "the run has asked less often";
    }
    EXPECT_LT(refused, requests);
  }
}

TEST_F(EmulationTest, WhatWasRehearsedIsThereForSmallerCalls) {
  constexpr std::size_t kCols = 192, kOut = 8, kRows = 20'000;
  const auto backend = make_emulated_cuda_backend({}).value();
  Rng rng(9);
  const HostWeight weight = random_weight(rng, kOut, kCols, Dtype::bf16);
  const HostMatrix parts[] = {weight.matrix()};
  const auto matrix = backend->pack(parts);
  Buffer<float> x, y;
  const auto call = [&](std::size_t rows) {
    float* input = x.reserve(*backend, rows * kCols);
    backend->matmul(input, rows, *matrix, y.reserve(*backend, rows * kOut));
    std::vector<std::uint32_t> list(rows);
    std::vector<std::byte> out(rows * kOut * 4);
    backend->gather(y.data(), list, kOut, Dtype::f32, out.data());
  };
  backend->rehearse([&] { call(kRows); });
  const std::uint64_t requests = emulation::requests_total();
  const std::uint64_t taken = backend->allocations_total();
  for (const std::size_t rows : {1UL, 300UL, kRows, 7UL, kRows}) call(rows);
  EXPECT_EQ(backend->allocations_total(), taken);
  EXPECT_EQ(emulation::requests_total(), requests);
  call(2 * kRows);
  EXPECT_GT(backend->allocations_total(), taken);
}

TEST_F(EmulationTest, HostCodeThatTouchesDeviceMemoryDies) {
  const int key = pkey_alloc(0, 0);
  if (key < 0) GTEST_SKIP() << "this processor has no protection keys";
  pkey_free(key);
  const auto backend = make_emulated_cuda_backend({}).value();
  const auto memory = backend->allocate(64);
  EXPECT_DEATH(std::memset(memory.get(), 1, 1), "");
}

TEST_F(EmulationTest, KernelsPastTheEndDie) {
  const auto backend = make_emulated_cuda_backend({.shape = {}, .strict = true}).value();
  const auto x = backend->allocate(64 * sizeof(float));
  auto* values = reinterpret_cast<float*>(x.get());
  backend->scale_add(1, values, 1, values, 64, values);
  EXPECT_DEATH(backend->scale_add(1, values, 1, values, 65, values), "");
}

// In host memory, in memory of the backend, in device memory of somebody else (a transport's).
TEST_F(EmulationTest, RowsMayStayOnTheDevice) {
  constexpr std::size_t kRows = 5, kHidden = 48, kInner = 32;
  Rng rng(81);
  const HostWeight gate = random_weight(rng, kInner, kHidden, Dtype::bf16);
  const HostWeight down = random_weight(rng, kHidden, kInner, Dtype::bf16);
  const auto y = random_floats(rng, kRows * kHidden);
  const std::vector<std::uint32_t> rows = {4, 0, 2};
  const std::vector<float> weights = {0.25F, 0.5F, 0.125F};
  std::vector<std::vector<float>> results;
  for (const int place : {0, 1, 2}) {
    const auto backend = make_emulated_cuda_backend({.shape = {}, .strict = true}).value();
    const auto expert = backend->pack_expert(gate.matrix(), gate.matrix(), down.matrix());
    const auto device_y = backend->allocate(y.size() * 4);
    backend->upload(device_y.get(), y.data(), y.size() * 4);
    const auto* input = reinterpret_cast<const float*>(device_y.get());
    const std::size_t bytes = rows.size() * kHidden * 2;
    std::vector<std::byte> host(2 * bytes);
    const auto own = backend->allocate(2 * bytes);
    void* foreign = nullptr;
    ASSERT_EQ(cudaMalloc(&foreign, 2 * bytes), cudaSuccess);
    std::byte* const places[] = {host.data(), own.get(), static_cast<std::byte*>(foreign)};
    std::byte* sent = places[place];
    std::byte* answered = sent + bytes;
    backend->gather(input, rows, kHidden, Dtype::bf16, sent);
    const std::vector<std::uint32_t> all = {0, 1, 2};
    const ExpertGroup group{expert.get(), all, 0};
    backend->experts(sent, Dtype::bf16, kHidden, {&group, 1}, answered, Dtype::bf16);
    std::vector<const std::byte*> outputs;
    for (std::size_t i = 0; i < 3; ++i) outputs.push_back(answered + i * kHidden * 2);
    const auto out = backend->allocate(3 * kHidden * 4);
    backend->combine(input, 3, kHidden, 1, weights.data(), outputs, Dtype::bf16, 2, 3,
                     reinterpret_cast<float*>(out.get()));
    results.emplace_back(3 * kHidden, kPoison);
    backend->download(results.back().data(), out.get(), 3 * kHidden * 4);
    EXPECT_EQ(cudaFree(foreign), cudaSuccess);
  }
  EXPECT_TRUE(same_bits(results[0], results[1]));
  EXPECT_TRUE(same_bits(results[0], results[2]));
}

// Each row from and to any of: host memory, memory of the backend, of somebody else's on the GPU.
TEST_F(EmulationTest, RowsAreCopiedBetweenAllMemories) {
  constexpr std::size_t kRowBytes = 48;
  const auto backend = make_emulated_cuda_backend({.shape = {}, .strict = true}).value();
  std::vector<std::byte> pattern(9 * kRowBytes);
  for (std::size_t i = 0; i < pattern.size(); ++i)
    pattern[i] = static_cast<std::byte>(i * 7 + i / 48);
  struct Memories {
    std::vector<std::byte> host = std::vector<std::byte>(9 * kRowBytes);
    std::shared_ptr<std::byte> own;
    std::byte* foreign = nullptr;
    std::byte* row(std::size_t memory, std::size_t at) {
      std::byte* const starts[] = {host.data(), own.get(), foreign};
      return starts[memory] + at * kRowBytes;
    }
  } from, to;
  for (Memories* memories : {&from, &to}) {
    memories->own = backend->allocate(pattern.size());
    void* foreign = nullptr;
    ASSERT_EQ(cudaMalloc(&foreign, pattern.size()), cudaSuccess);
    memories->foreign = static_cast<std::byte*>(foreign);
  }
  from.host = pattern;
  backend->upload(from.own.get(), pattern.data(), pattern.size());
  backend->upload(from.foreign, pattern.data(), pattern.size());
  std::vector<RowCopy> copies;
  for (std::size_t at = 0; at < 9; ++at)
    copies.push_back({from.row(at % 3, at), to.row(at / 3, at)});
  backend->copy_rows(copies, kRowBytes);
  for (std::size_t at = 0; at < 9; ++at) {
    std::vector<std::byte> row(kRowBytes);
    backend->download(row.data(), to.row(at / 3, at), kRowBytes);
    EXPECT_EQ(std::memcmp(row.data(), pattern.data() + at * kRowBytes, kRowBytes), 0) << at;
  }
  for (Memories* memories : {&from, &to}) EXPECT_EQ(cudaFree(memories->foreign), cudaSuccess);
}

TEST_F(EmulationTest, MarksOutliveTheirBackend) {
  auto backend = make_emulated_cuda_backend({}).value();
  const auto first = backend->mark();
  auto second = backend->mark();
  EXPECT_NE(first->event(), second->event());
  second->wait();
  EXPECT_TRUE(second->reached());
  EXPECT_GE(second->since(*first), 0);
  const void* const event = second->event();
  second.reset();
  EXPECT_EQ(backend->mark()->event(), event) << "events are reused";
  backend.reset();
  first->wait();
  EXPECT_EQ(make_reference_backend(Precision::f32)->mark(), nullptr);
}

}  // namespace
}  // namespace fulgur::kernels::testing
