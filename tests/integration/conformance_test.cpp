// The official OpenAI client for JavaScript, driven by tests/conformance/openai.mjs, against a mesh
// of real processes. Skipped, saying why, where node is missing or npm cannot fetch the client.
#include <gtest/gtest.h>

#include <filesystem>

#include "tests/integration/mesh.hpp"

namespace fulgur::integration {
namespace {

namespace fs = std::filesystem;

/// A program of PATH, looked up when the test runs: packages may have come after the build.
Finished run_from_path(std::vector<std::string> command, Nanoseconds patience = kPatience) {
  return run_program("/usr/bin/env", command, patience);
}

/// Copies the scripts to the build tree and installs their packages there, as locked.
Finished install_packages() {
  const fs::path folder = FULGUR_NODE_FOLDER;
  fs::create_directories(folder);
  for (const auto& entry : fs::directory_iterator(FULGUR_SOURCE_DIR "/tests/conformance"))
    if (entry.is_regular_file())
      fs::copy(entry.path(), folder / entry.path().filename(), fs::copy_options::update_existing);
  std::error_code ignored;
  const auto installed = fs::last_write_time(folder / "node_modules/.package-lock.json", ignored);
  if (!ignored && installed >= fs::last_write_time(folder / "package-lock.json")) return {0, ""};
  return run_from_path({"npm", "ci", "--prefix", folder.string(), "--no-audit", "--no-fund"},
                       300 * kSecond);
}

TEST(Conformance, OpenAiClient) {
  if (run_from_path({"node", "--version"}).exit_code != 0 ||
      run_from_path({"npm", "--version"}).exit_code != 0)
    GTEST_SKIP() << "node or npm is not installed (./fulgur test installs them)";
  const Finished packages = install_packages();
  if (packages.exit_code != 0)
    GTEST_SKIP() << "npm ci cannot fetch the OpenAI client: " << packages.output;
  Mesh mesh;
  const Status started = mesh.start();
  ASSERT_TRUE(started.is_ok()) << started.message();
  const Finished checks = run_from_path(
      {"node", std::string(FULGUR_NODE_FOLDER) + "/openai.mjs", mesh.url()}, 300 * kSecond);
  EXPECT_EQ(checks.exit_code, 0) << checks.output;
  EXPECT_TRUE(mesh.is_whole());
  EXPECT_EQ(mesh.stop(), 0);
}

}  // namespace
}  // namespace fulgur::integration
