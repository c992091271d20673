// A static file inside the binary; tables of them are written by fulgur_embed() of CMake.
#pragma once

#include <span>
#include <string_view>

namespace fulgur::http {

struct EmbeddedFile {
  std::string_view name;  ///< without folder: "index.html"
  std::string_view bytes;
};

}  // namespace fulgur::http
