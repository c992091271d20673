// Stands in for grpc_echo.cpp where gRPC's development files are not installed.
#include "bench/transport/echo.hpp"

namespace fulgur::bench {

Contestant grpc_contestant(const std::string& name, const std::string&) {
  Contestant contestant;
  contestant.name = name;
  contestant.missing =
      "not built: ./fulgur bench transport installs what it needs";
  return contestant;
}

}  // namespace fulgur::bench
