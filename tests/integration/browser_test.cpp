// The pages in a headless Chromium: the operations page with made-up meshes of any size and with a
// mesh of real processes where workers die and join; the playground with one that answers.
// Screenshots stay in the build tree. Skipped, saying why, without Chromium (apt-get install
// chromium) or npm packages.
#include <gtest/gtest.h>

#include "tests/integration/node.hpp"

namespace fulgur::integration {
namespace {

const std::string kScreenshots = std::string(FULGUR_NODE_FOLDER) + "/screenshots";

class Browser : public testing::Test {
 protected:
  void SetUp() override {
    if (!has_browser()) GTEST_SKIP() << "chromium is not installed (apt-get install chromium)";
    if (const Status node = prepare_node(); !node.is_ok()) GTEST_SKIP() << node.message();
  }
};

TEST_F(Browser, OperationsPageOfMadeUpMeshes) {
  const Finished checks =
      run_node("ops_synthetic.mjs", {FULGUR_SOURCE_DIR "/services/orchestrator/ops", kScreenshots});
  EXPECT_EQ(checks.exit_code, 0) << checks.output;
}

TEST_F(Browser, OperationsPageOfARunningMesh) {
  Mesh mesh({.experts = 3});
  const Status started = mesh.start();
  ASSERT_TRUE(started.is_ok()) << started.message();
  const Finished checks =
      run_node("ops_page.mjs", {"http://" + mesh.admin_of("orchestrator"), program("fulgur"),
                                std::to_string(mesh.port()), kScreenshots});
  EXPECT_EQ(checks.exit_code, 0) << checks.output;
  EXPECT_TRUE(mesh.is_whole());
  EXPECT_EQ(mesh.stop(), 0);
}

TEST_F(Browser, Playground) {
  Mesh mesh;
  const Status started = mesh.start();
  ASSERT_TRUE(started.is_ok()) << started.message();
  const Finished checks = run_node("playground.mjs", {mesh.url(), kScreenshots});
  EXPECT_EQ(checks.exit_code, 0) << checks.output;
  EXPECT_TRUE(mesh.is_whole());
  EXPECT_EQ(mesh.stop(), 0);
}

}  // namespace
}  // namespace fulgur::integration
