#include "tests/integration/node.hpp"

#include <cstdlib>
#include <filesystem>

namespace fulgur::integration {
namespace {

namespace fs = std::filesystem;

/// A program of PATH, looked up when the test runs: packages may have come after the build.
Finished run_from_path(const std::vector<std::string>& command, Nanoseconds patience) {
  return run_program("/usr/bin/env", command, patience);
}

}  // namespace

Status prepare_node() {
  for (const char* const program : {"node", "npm"})
    if (run_from_path({program, "--version"}, kPatience).exit_code != 0)
      return error(Code::unavailable, "{} is not installed (./fulgur test installs it)", program);
  const fs::path folder = FULGUR_NODE_FOLDER;
  fs::create_directories(folder);
  for (const auto& entry : fs::directory_iterator(FULGUR_SOURCE_DIR "/tests/conformance"))
    if (entry.is_regular_file())
      fs::copy(entry.path(), folder / entry.path().filename(), fs::copy_options::update_existing);
  std::error_code ignored;
  const auto installed = fs::last_write_time(folder / "node_modules/.package-lock.json", ignored);
  if (!ignored && installed >= fs::last_write_time(folder / "package-lock.json"))
    return Status::ok();
  const Finished packages = run_from_path(
      {"npm", "ci", "--prefix", folder.string(), "--no-audit", "--no-fund"}, 300 * kSecond);
  if (packages.exit_code == 0) return Status::ok();
  return error(Code::unavailable, "npm ci cannot fetch the packages: {}", packages.output);
}

Finished run_node(const std::string& script, const std::vector<std::string>& arguments) {
  std::vector<std::string> command{"node", std::string(FULGUR_NODE_FOLDER) + "/" + script};
  command.insert(command.end(), arguments.begin(), arguments.end());
  return run_from_path(command, 300 * kSecond);
}

bool has_browser() {
  const char* const named = std::getenv("CHROMIUM");
  return fs::exists(named != nullptr ? named : "/usr/bin/chromium");
}

}  // namespace fulgur::integration
