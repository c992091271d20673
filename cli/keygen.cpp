// fulgur keygen: the key of a mesh, in a file for its owner alone.
#include <sys/stat.h>

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "cli/commands.hpp"
#include "common/transport/curve_keys.hpp"

namespace fulgur::cli {

int run(const KeygenOptions& options) {
  if (mkdir(options.out.c_str(), 0700) != 0 && errno != EEXIST) {
    return fail(
        error(Code::unavailable, "cannot create {}: {}", options.out, std::strerror(errno)));
  }
  const std::string path = options.out + "/curve.key";
  if (const Status written = transport::write_curve_key(path, transport::new_curve_key());
      !written.is_ok()) {
    return fail(written);
  }
  std::printf("%s: give it to every service of one mesh (--curve-key-file), and to nobody else\n",
              path.c_str());
  return 0;
}

}  // namespace fulgur::cli
