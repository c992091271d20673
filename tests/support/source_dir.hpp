// Where the source tree is when a test runs: where it was built, or FULGUR_SOURCE_DIR of the
// environment, for test binaries that were carried to another machine.
#pragma once

#include <cstdlib>
#include <string>

namespace fulgur::test {

inline std::string source_path(const std::string& path) {
  const char* elsewhere = std::getenv("FULGUR_SOURCE_DIR");
  return std::string(elsewhere != nullptr ? elsewhere : FULGUR_SOURCE_DIR) + "/" + path;
}

}  // namespace fulgur::test
