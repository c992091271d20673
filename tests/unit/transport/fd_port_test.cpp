#include "common/transport/fd_port.hpp"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include "common/transport/cuda_gpu.hpp"

namespace fulgur::transport {
namespace {

UniqueFd file_with(const std::string& text) {
  UniqueFd file(memfd_create("test", MFD_CLOEXEC));
  EXPECT_EQ(write(file.get(), text.data(), text.size()), static_cast<ssize_t>(text.size()));
  return file;
}

std::string text_in(const UniqueFd& file) {
  char text[16] = {};
  EXPECT_GT(pread(file.get(), text, sizeof(text) - 1, 0), 0);
  return text;
}

TEST(FdPort, DescriptorsComeUnderTheirTagInAnyOrder) {
  const auto here = FdPort::open().value();
  const auto there = FdPort::open().value();
  for (std::uint64_t tag = 1; tag <= 20; ++tag) {
    const UniqueFd one = file_with("one" + std::to_string(tag));
    const UniqueFd two = file_with("two" + std::to_string(tag));
    const int fds[] = {one.get(), two.get()};
    ASSERT_TRUE(there->send(here->name(), tag, fds).is_ok());
  }
  for (std::uint64_t tag = 20; tag >= 1; --tag) {
    auto fds = here->take(tag);
    ASSERT_TRUE(fds.is_ok()) << fds.status().to_string();
    ASSERT_EQ(fds->size(), 2U);
    EXPECT_EQ(text_in((*fds)[0]), "one" + std::to_string(tag));
    EXPECT_EQ(text_in((*fds)[1]), "two" + std::to_string(tag));
    EXPECT_EQ(here->take(tag).status().code(), Code::not_found) << "once only";
  }
}

TEST(FdPort, NobodyThereAndStrangeNamesAreErrors) {
  const auto here = FdPort::open().value();
  const UniqueFd file = file_with("x");
  const int fds[] = {file.get()};
  EXPECT_EQ(here->send("fulgur-gpu-1-0", 1, fds).code(), Code::unavailable);
  EXPECT_EQ(here->send("/etc/passwd", 1, fds).code(), Code::invalid_argument);
  EXPECT_EQ(here->send("fulgur-gpu-" + std::string(200, 'x'), 1, fds).code(),
            Code::invalid_argument);
  EXPECT_EQ(here->take(1).status().code(), Code::not_found);
}

TEST(FdPort, WhatNobodyAsksForIsBounded) {
  const auto here = FdPort::open().value();
  const auto there = FdPort::open().value();
  const UniqueFd file = file_with("x");
  const int fds[] = {file.get()};
  for (std::uint64_t tag = 0; tag < FdPort::kMostKept + 10; ++tag) {
    ASSERT_TRUE(there->send(here->name(), tag, fds).is_ok());
  }
  EXPECT_TRUE(here->take(0).is_ok());
  EXPECT_EQ(here->take(FdPort::kMostKept + 5).status().code(), Code::not_found);
}

/// One line instead of a GPU, with or without CUDA in the build; on a machine with one it opens.
TEST(CudaGpu, SaysWhatIsMissing) {
  const auto gpu = open_cuda_gpu({.device = 4096});
  ASSERT_FALSE(gpu.is_ok());
  EXPECT_FALSE(gpu.status().message().empty());
  EXPECT_EQ(gpu.status().message().find('\n'), std::string::npos);
}

}  // namespace
}  // namespace fulgur::transport
