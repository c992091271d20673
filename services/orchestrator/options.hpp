// Command line of fulgur-orchestrator.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace fulgur::orchestrator {

struct Options {
  std::string name = "orchestrator";
  std::vector<std::string> listen;
  std::string admin = "127.0.0.1:0";
  std::string model;
  std::string log_level = "info";
  std::uint32_t replicas = 2;
  std::uint32_t expect_experts = 0;
  std::uint32_t expect_attention = 0;
  double grace_s = 10;
  double heartbeat_timeout_s = 10;
};

/// Fills `options`; returns the exit code when the process should end now (help: 0, bad flag: 2,
/// after one line on stderr).
std::optional<int> parse_options(int argc, char** argv, Options& options);

}  // namespace fulgur::orchestrator
