// The playground: one static page, embedded when the router is built (playground/index.html).
#pragma once

#include "common/http/embedded_file.hpp"

namespace fulgur::router {

extern const std::span<const http::EmbeddedFile> kPlaygroundFiles;

}  // namespace fulgur::router
