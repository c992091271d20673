#include "common/telemetry/admin.hpp"

#include <charconv>

namespace fulgur::telemetry {

Result<std::unique_ptr<http::Server>> open_admin(const std::string& address, const Metrics& metrics,
                                                 std::function<http::Readiness()> readiness) {
  const std::size_t colon = address.rfind(':');
  std::uint16_t port = 0;
  const char* const end = address.data() + address.size();
  const char* const digits = colon == std::string::npos ? end : address.data() + colon + 1;
  const auto [stopped, failure] = std::from_chars(digits, end, port);
  if (colon == 0 || failure != std::errc() || stopped != end)
    return error(Code::invalid_argument, "admin address \"{}\" is not HOST:PORT", address);
  http::ServerOptions options;
  options.connections_max = 64;
  options.body_bytes_max = 64 * 1024;
  FULGUR_ASSIGN_OR_RETURN(auto server,
                          http::Server::listen(address.substr(0, colon), port, options));
  http::add_admin_routes(*server, {[&metrics] { return metrics.text(); }, std::move(readiness)});
  return server;
}

}  // namespace fulgur::telemetry
