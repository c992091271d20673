// The playground: one static page, embedded when the router is built (playground/index.html).
#pragma once

#include <string_view>

namespace fulgur::router {

extern const std::string_view kPlaygroundPage;

}  // namespace fulgur::router
