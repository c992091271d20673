// Command line of fulgur-orchestrator.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "common/transport/curve_keys.hpp"

namespace fulgur::orchestrator {

struct Options {
  std::string name = "orchestrator";
  std::vector<std::string> listen;
  std::string admin = "127.0.0.1:0";
  std::string model;
  std::string log_level = "info";
  std::vector<transport::CurveKey> curve;  ///< empty: links are not encrypted
  std::uint32_t replicas = 2;
  std::uint32_t expect_experts = 0;
  std::uint32_t expect_attention = 0;
  double grace_s = 10;
  double heartbeat_timeout_s = 10;
  double rebalance_interval_s = 60;
  std::uint64_t rebalance_moves = 64;
  double spare = 0;
  /// Floors and ceilings of the scaling signal.
  std::uint32_t min_experts = 1;
  std::uint32_t max_experts = 64;
  std::uint32_t min_attention = 1;
  std::uint32_t max_attention = 16;
  double busy_target = 0.7;
  double shrink_window_s = 180;
  double slo_first_token_ms = 0;
  double slo_inter_token_ms = 0;
};

/// Fills `options`; returns the exit code when the process should end now (help: 0, bad flag: 2,
/// after one line on stderr).
std::optional<int> parse_options(int argc, char** argv, Options& options);

}  // namespace fulgur::orchestrator
