#include "services/orchestrator/options.hpp"

#include <CLI/CLI.hpp>
#include <fmt/format.h>

#include <cstdio>
#include <tuple>

#include "common/service/curve_flag.hpp"

namespace fulgur::orchestrator {

namespace {

void add_balance_options(CLI::App& app, Options& options) {
  app.add_option("--rebalance-interval", options.rebalance_interval_s,
                 "seconds between two changes of placement for balance at least; 0: never")
      ->check(CLI::Range(0.0, 86400.0))
      ->capture_default_str();
  app.add_option("--rebalance-moves", options.rebalance_moves,
                 "replicas loaded in one change for balance at most")
      ->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
  app.add_option("--spare", options.spare,
                 "replicas more for hot experts, as a part of all experts, e.g. 0.25")
      ->check(CLI::Range(0.0, 64.0))
      ->capture_default_str();
}

void add_scaling_options(CLI::App& app, Options& options) {
  const auto size = CLI::Range(1, 4096);
  app.add_option("--min-experts", options.min_experts, "fewest expert workers the signal wants")
      ->check(size)
      ->capture_default_str();
  app.add_option("--max-experts", options.max_experts, "most expert workers it wants")
      ->check(size)
      ->capture_default_str();
  app.add_option("--min-attention", options.min_attention, "fewest attention shards it wants")
      ->check(size)
      ->capture_default_str();
  app.add_option("--max-attention", options.max_attention, "most attention shards it wants")
      ->check(size)
      ->capture_default_str();
  app.add_option("--busy-target", options.busy_target, "part of its time a replica should compute")
      ->check(CLI::Range(0.01, 1.0))
      ->capture_default_str();
  app.add_option("--shrink-window", options.shrink_window_s,
                 "seconds of smaller load before the signal wants less")
      ->check(CLI::Range(0.0, 86400.0))
      ->capture_default_str();
  app.add_option("--slo-first-token-ms", options.slo_first_token_ms,
                 "mean time to the first token to hold; 0: none")
      ->check(CLI::Range(0.0, 3.6e6));
  app.add_option("--slo-inter-token-ms", options.slo_inter_token_ms,
                 "mean time between tokens to hold; 0: none")
      ->check(CLI::Range(0.0, 3.6e6));
}

}  // namespace

std::optional<int> parse_options(int argc, char** argv, Options& options) {
  CLI::App app("Fulgur orchestrator: membership, placement epochs and the mesh view.",
               "fulgur-orchestrator");
  app.add_option("--name", options.name, "name in the mesh")->capture_default_str();
  app.add_option("--listen", options.listen, "ZeroMQ endpoint for members; repeatable")->required();
  app.add_option("--admin", options.admin, "HOST:PORT of /metrics, /readyz, /v1/mesh; port 0: any")
      ->check(CLI::Validator(
          [](std::string& text) {
            const std::size_t colon = text.rfind(':');
            const bool good = colon != std::string::npos && colon > 0 && colon + 1 < text.size() &&
                              text.find_first_not_of("0123456789", colon + 1) == std::string::npos;
            return good ? std::string() : text + " is not HOST:PORT";
          },
          "HOST:PORT"))
      ->capture_default_str();
  app.add_option("--model", options.model, "checkpoint directory (headers only are read)")
      ->required();
  app.add_option("--log-level", options.log_level, "debug, info, warn or error")
      ->check(CLI::IsMember({"debug", "info", "warn", "error"}))
      ->capture_default_str();
  service::add_curve_flag(app, options.curve);
  app.add_option("--replicas", options.replicas, "replicas of every expert, capacity allowing")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  app.add_option("--expect-experts", options.expect_experts, "workers the first epoch waits for")
      ->check(CLI::Range(0, 4096));
  app.add_option("--expect-attention", options.expect_attention, "shards the first epoch waits for")
      ->check(CLI::Range(0, 4096));
  app.add_option("--grace", options.grace_s, "seconds the first epoch waits at most")
      ->check(CLI::Range(0.0, 3600.0))
      ->capture_default_str();
  app.add_option("--heartbeat-timeout", options.heartbeat_timeout_s,
                 "seconds of silence until lost")
      ->check(CLI::Range(0.5, 3600.0))
      ->capture_default_str();
  add_balance_options(app, options);
  add_scaling_options(app, options);
  try {
    app.parse(argc, argv);
    for (const auto& [floor, ceiling, pool] :
         {std::tuple{options.min_experts, options.max_experts, "experts"},
          std::tuple{options.min_attention, options.max_attention, "attention"}}) {
      if (floor > ceiling) {
        throw CLI::ValidationError(
            fmt::format("--min-{0} {1} is more than --max-{0} {2}", pool, floor, ceiling));
      }
    }
  } catch (const CLI::CallForHelp&) {
    std::fputs(app.help().c_str(), stdout);
    return 0;
  } catch (const CLI::ParseError& bad) {
    std::fprintf(stderr, "fulgur-orchestrator: %s\n", bad.what());
    return 2;
  }
  return std::nullopt;
}

}  // namespace fulgur::orchestrator
