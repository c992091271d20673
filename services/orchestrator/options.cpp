#include "services/orchestrator/options.hpp"

#include <CLI/CLI.hpp>
#include <cstdio>

namespace fulgur::orchestrator {

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
  try {
    app.parse(argc, argv);
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
