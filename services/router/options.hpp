// The command line of fulgur-router as a value.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "common/transport/options.hpp"
#include "services/router/served_model.hpp"
#include "services/router/service.hpp"

namespace fulgur::router {

struct Options {
  ServiceOptions service;
  ServedModelOptions model;
  transport::TransportOptions transport;
  std::vector<int> cpus;         ///< empty: any
  Nanoseconds drain_timeout = 30 * kSecond;
  std::string log_level = "info";
};

/// Fills `options`; an exit code when the process should end at once: 0 for --help, 2 for a bad
/// flag, after one line on stderr.
std::optional<int> parse_options(int argc, char** argv, Options& options);

}  // namespace fulgur::router
