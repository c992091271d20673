// Run directories: one living mesh a port, stale ones are cleaned, mesh.json round trip.
#include "cli/run_dir.hpp"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

namespace fulgur::cli {
namespace {

namespace fs = std::filesystem;

class RunDirTest : public testing::Test {
 protected:
  void SetUp() override {
    char name[] = "/tmp/fulgur-test-XXXXXX";
    base_ = mkdtemp(name);
    setenv("XDG_RUNTIME_DIR", base_.c_str(), 1);
  }
  void TearDown() override { fs::remove_all(base_); }

  std::string parent() const { return base_ + "/fulgur-" + std::to_string(getuid()); }
  std::string base_;
};

TEST_F(RunDirTest, OneMeshAPortAndManySideBySide) {
  auto first = RunDir::claim(8000);
  ASSERT_TRUE(first.is_ok()) << first.status().message();
  EXPECT_TRUE(RunDir::of(8000).in_use());
  EXPECT_FALSE(RunDir::of(8001).in_use());
  EXPECT_EQ(RunDir::claim(8000).status().message(),
            "a mesh already runs on port 8000 (end it with: fulgur down --port 8000)");
  EXPECT_TRUE(RunDir::claim(8001).is_ok());
  struct stat info {};
  ASSERT_EQ(stat(first->path().c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0700U);
}

TEST_F(RunDirTest, AStaleDirectoryIsCleaned) {
  fs::create_directories(parent() + "/mesh-8000");
  fs::permissions(parent(), fs::perms::owner_all);
  std::ofstream(parent() + "/mesh-8000/mesh.json") << "{}";
  EXPECT_FALSE(RunDir::of(8000).in_use());
  EXPECT_EQ(RunDir::of(8000).read().status().message(), "no mesh runs on port 8000");
  const auto dir = RunDir::claim(8000);
  ASSERT_TRUE(dir.is_ok());
  EXPECT_FALSE(fs::exists(dir->path() + "/mesh.json"));
}

TEST_F(RunDirTest, RecordsSurviveTheRoundTrip) {
  const auto dir = RunDir::claim(8000);
  ASSERT_TRUE(dir.is_ok());
  EXPECT_EQ(RunDir::of(8000).read().status().message(), "the mesh on port 8000 is just starting");
  MeshRecord record{8000, "0.0.0.0", "/models/a", 42, "127.0.0.1:5", "127.0.0.1:6", {}};
  record.services.push_back({"expert", "expert-0", 43, dir->socket_endpoint("expert-0"), "log"});
  ASSERT_TRUE(dir->write(record).is_ok());
  EXPECT_EQ(*RunDir::of(8000).read(), record);
  std::ofstream(dir->path() + "/mesh.json", std::ios::trunc) << "{ garbage";
  EXPECT_FALSE(RunDir::of(8000).read().is_ok());
  dir->remove();
  EXPECT_FALSE(fs::exists(dir->path()));
}

TEST_F(RunDirTest, ThePlaceIsFreeAgainWhenItsOwnerIsGone) {
  { ASSERT_TRUE(RunDir::claim(8000).is_ok()); }
  EXPECT_FALSE(RunDir::of(8000).in_use());
  EXPECT_TRUE(RunDir::claim(8000).is_ok());
}

TEST_F(RunDirTest, AParentThatOthersMayWriteIsRefused) {
  fs::create_directories(parent());
  fs::permissions(parent(), fs::perms::all);
  EXPECT_EQ(RunDir::claim(8000).status().message(),
            parent() + " is not a private directory of this user");
}

TEST_F(RunDirTest, SocketPathsFitIntoAnAddress) {
  const std::string deep = base_ + "/" + std::string(90, 'x');
  fs::create_directories(deep);
  setenv("XDG_RUNTIME_DIR", deep.c_str(), 1);
  EXPECT_LT(RunDir::of(65535).socket_endpoint("attention-63").size(), 6 + 108U);
}

}  // namespace
}  // namespace fulgur::cli
