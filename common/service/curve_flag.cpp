#include "common/service/curve_flag.hpp"

namespace fulgur::service {

void add_curve_flag(CLI::App& app, std::vector<transport::CurveKey>& keys) {
  app.add_option_function<std::string>(
         "--curve-key-file",
         [&keys](const std::string& path) {
           auto read = transport::read_curve_keys(path);
           if (!read.is_ok()) {
             throw CLI::ValidationError("--curve-key-file", read.status().message());
           }
           keys = std::move(*read);
         },
         "keys of the mesh (fulgur keygen): links are encrypted, and only who has them gets in")
      ->type_name("FILE");
}

}  // namespace fulgur::service
