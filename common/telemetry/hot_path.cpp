#include "common/telemetry/hot_path.hpp"

#include <cstdlib>
#include <string_view>

namespace fulgur::telemetry {
namespace {

bool on_unless_told() {
  const char* value = std::getenv("FULGUR_HOT_PATH_TELEMETRY");
  return value == nullptr || std::string_view(value) != "off";
}

}  // namespace

const bool kHotPath = on_unless_told();

}  // namespace fulgur::telemetry
