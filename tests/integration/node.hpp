// Scripts of tests/conformance run with node, for tests that need npm packages or a browser.
#pragma once

#include "tests/integration/mesh.hpp"

namespace fulgur::integration {

/// Copies the scripts to the build tree and installs their packages there, as locked, the first
/// time. Not ok, saying why, where node or npm is missing or the packages cannot be fetched.
Status prepare_node();

/// A script by its file name, after prepare_node().
Finished run_node(const std::string& script, const std::vector<std::string>& arguments);

/// Whether the browser that scripts drive is installed.
bool has_browser();

}  // namespace fulgur::integration
