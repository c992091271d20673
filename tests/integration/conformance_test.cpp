// What npm has the last word on: the official OpenAI client for JavaScript against a mesh of real
// processes, and the chart library that the orchestrator embeds. Skipped, saying why, where node is
// missing or npm cannot fetch packages.
#include <gtest/gtest.h>

#include "tests/integration/node.hpp"

namespace fulgur::integration {
namespace {

TEST(Conformance, OpenAiClient) {
  if (const Status node = prepare_node(); !node.is_ok()) GTEST_SKIP() << node.message();
  Mesh mesh;
  const Status started = mesh.start();
  ASSERT_TRUE(started.is_ok()) << started.message();
  const Finished checks = run_node("openai.mjs", {mesh.url()});
  EXPECT_EQ(checks.exit_code, 0) << checks.output;
  EXPECT_TRUE(mesh.is_whole());
  EXPECT_EQ(mesh.stop(), 0);
}

TEST(Conformance, EmbeddedChartsAreNpms) {
  if (const Status node = prepare_node(); !node.is_ok()) GTEST_SKIP() << node.message();
  const Finished checks =
      run_node("ops_vendored.mjs", {FULGUR_SOURCE_DIR "/services/orchestrator/ops/uplot"});
  EXPECT_EQ(checks.exit_code, 0) << checks.output;
}

}  // namespace
}  // namespace fulgur::integration
