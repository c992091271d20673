// Where this program and the bundled model are.
#include <cstdio>
#include <cstdlib>
#include <filesystem>

#include "cli/commands.hpp"

namespace fulgur::cli {

namespace fs = std::filesystem;

int fail(const Status& status) {
  std::fprintf(stderr, "fulgur: %s\n", status.message().c_str());
  return 1;
}

std::string program_directory() {
  std::error_code failure;
  const fs::path self = fs::read_symlink("/proc/self/exe", failure);
  return failure ? "." : self.parent_path().string();
}

Result<std::string> model_directory(const std::string& given) {
  std::error_code ignored;
  if (!given.empty()) {
    if (!fs::is_directory(given, ignored))
      return error(Code::not_found, "--model {}: no such directory", given);
    return fs::absolute(given).lexically_normal().string();
  }
  // From build/<preset>/bin of the source tree, or installed beside share/.
  for (const char* const candidate :
       {"../../../models/fulgur-tiny", "../share/fulgur/models/fulgur-tiny"}) {
    const fs::path path = (fs::path(program_directory()) / candidate).lexically_normal();
    if (fs::is_directory(path, ignored)) return path.string();
  }
  return Status(Code::not_found, "the bundled model is not here; name one with --model DIR");
}

}  // namespace fulgur::cli
