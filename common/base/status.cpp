#include "common/base/status.hpp"

namespace fulgur {

std::string_view to_string(Code code) {
  switch (code) {
    case Code::ok: return "ok";
    case Code::invalid_argument: return "invalid_argument";
    case Code::not_found: return "not_found";
    case Code::unavailable: return "unavailable";
    case Code::resource_exhausted: return "resource_exhausted";
    case Code::deadline_exceeded: return "deadline_exceeded";
    case Code::cancelled: return "cancelled";
    case Code::failed_precondition: return "failed_precondition";
    case Code::data_loss: return "data_loss";
    case Code::internal: return "internal";
  }
  return "unknown";
}

std::string Status::to_string() const {
  if (is_ok()) return "ok";
  return fmt::format("{}: {}", fulgur::to_string(code_), message_);
}

}  // namespace fulgur
