// The fork-join pool runs each unit once, again and again, from any number of threads.
#include "kernels/cpu/compute_pool.hpp"

#include <gtest/gtest.h>

#include "kernels/include/fulgur/kernels/backend.hpp"

namespace fulgur::kernels {
namespace {

TEST(ComputePoolTest, RunsEveryUnitOnce) {
  for (const std::uint32_t threads : {1U, 2U, 5U}) {
    cpu::ComputePool pool(threads, {});
    EXPECT_EQ(pool.threads(), threads);
    for (std::size_t round = 0; round < 500; ++round) {
      const std::size_t units = round % 17;
      std::vector<int> count(units, 0);
      pool.run(units, [&](std::size_t unit, std::uint32_t thread) {
        ASSERT_LT(thread, threads);
        ++count[unit];
      });
      EXPECT_EQ(count, std::vector<int>(units, 1));
    }
  }
}

TEST(MakeCpuBackendTest, NamesWhatIsWrong) {
  EXPECT_EQ(make_cpu_backend({Precision::bf16, 0, {}, "auto"}).status().code(), Code::invalid_argument);
  const auto unknown = make_cpu_backend({Precision::bf16, 1, {}, "sse9"});
  ASSERT_FALSE(unknown.is_ok());
  EXPECT_NE(unknown.status().message().find("sse9"), std::string::npos);
}

TEST(MakeCpuBackendTest, MemoryIsZeroedAndAligned) {
  auto backend = make_cpu_backend({Precision::bf16, 1, {}, "auto"});
  ASSERT_TRUE(backend.is_ok()) << backend.status().to_string();
  for (const std::size_t bytes : {1UL, 4096UL, 1UL << 20}) {
    const auto memory = (*backend)->allocate(bytes);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(memory.get()) % 64, 0U);
    for (std::size_t i = 0; i < bytes; i += 97) ASSERT_EQ(memory.get()[i], std::byte{0});
  }
}

}  // namespace
}  // namespace fulgur::kernels
