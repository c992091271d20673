#include "services/router/options.hpp"

#include <CLI/CLI.hpp>
#include <charconv>
#include <fstream>
#include <map>
#include <random>

#include "common/base/rng.hpp"

namespace fulgur::router {
namespace {

/// Texts of flags that need more than a conversion.
struct RawFlags {
  std::string admin = "127.0.0.1:0";
  std::string transport = "auto";
  std::string activations = "bf16";  // the router moves none; accepted so that all services agree
  std::string cpus;
  std::string api_key_file;
  double request_timeout_s = 600;
  double drain_timeout_s = 30;
};

void add_common_flags(CLI::App& app, Options& options, RawFlags& raw) {
  app.add_option("--name", options.service.name, "Unique name in the mesh");
  app.add_option("--listen", options.transport.listen, "ZeroMQ endpoint to listen on (repeatable)");
  app.add_option("--orchestrator", options.service.orchestrator, "Endpoint of the orchestrator")
      ->required();
  app.add_option("--admin", raw.admin, "HOST:PORT of /metrics, /healthz, /readyz");
  app.add_option("--model", options.model.directory, "Checkpoint directory")->required();
  app.add_option("--transport", raw.transport, "Carrier of messages")
      ->check(CLI::IsMember({"auto", "shm", "zmq"}));
  app.add_option("--activations", raw.activations, "Ignored by the router")
      ->check(CLI::IsMember({"bf16", "f32"}));
  app.add_option("--threads", options.service.worker_threads,
                 "Threads that check and tokenise requests")->check(CLI::Range(1, 64));
  app.add_option("--cpus", raw.cpus, "CPUs to run on, e.g. 0,1");
  app.add_option("--log-level", options.log_level, "debug, info, warn or error")
      ->check(CLI::IsMember({"debug", "info", "warn", "error"}));
}

void add_router_flags(CLI::App& app, Options& options, RawFlags& raw) {
  app.add_option("--host", options.service.host, "Address of the API");
  app.add_option("--port", options.service.port, "Port of the API; 0 takes any");
  app.add_option("--max-requests", options.service.requests_max,
                 "Sequences admitted at a time; more get 429")->check(CLI::Range(1, 65536));
  app.add_option("--max-body-bytes", options.service.body_bytes_max,
                 "Largest request body; larger get 413")->check(CLI::Range(1024, 1 << 30));
  app.add_option("--max-context", options.model.context_max,
                 "Tokens of prompt and answer, when less than the model's");
  app.add_option("--default-max-tokens", options.model.default_max_tokens,
                 "Longest answer of a chat that names no limit")->check(CLI::Range(1, 1 << 22));
  app.add_option("--api-key", options.service.api_key, "Key that clients must send");
  app.add_option("--api-key-file", raw.api_key_file, "File that holds the key");
  app.add_option("--served-model-name", options.model.served_name,
                 "Name of the model; default: the directory's");
  app.add_option("--request-timeout", raw.request_timeout_s, "Seconds a request may take")
      ->check(CLI::Range(0.001, 86400.0));
  app.add_option("--drain-timeout", raw.drain_timeout_s, "Seconds streams may take to finish")
      ->check(CLI::Range(0.0, 3600.0));
}

Status split_host_port(const std::string& text, std::string& host, std::uint16_t& port) {
  const std::size_t colon = text.rfind(':');
  if (colon != std::string::npos) {
    const char* end = text.data() + text.size();
    const auto [stop, failure] = std::from_chars(text.data() + colon + 1, end, port);
    host = text.substr(0, colon);
    if (failure == std::errc() && stop == end && !host.empty()) return Status::ok();
  }
  return error(Code::invalid_argument, "--admin: {} is not HOST:PORT", text);
}

Status read_cpus(const std::string& text, std::vector<int>& cpus) {
  for (const char *at = text.data(), *end = at + text.size(); at < end;) {
    int cpu = -1;
    const auto [stop, failure] = std::from_chars(at, end, cpu);
    if (failure != std::errc() || cpu < 0 || cpu >= 1024 || (stop != end && *stop != ',')) {
      return error(Code::invalid_argument, "--cpus: {} is not a list like 0,1", text);
    }
    cpus.push_back(cpu);
    at = stop + 1;
  }
  return Status::ok();
}

Status read_api_key(const std::string& path, std::string& key) {
  if (path.empty()) return Status::ok();
  std::ifstream file(path);
  std::getline(file, key);
  if (file && !key.empty()) return Status::ok();
  return error(Code::invalid_argument, "--api-key-file: cannot read a key from {}", path);
}

Status finish(const RawFlags& raw, Options& options) {
  const std::map<std::string, transport::Carrier> carriers{{"auto", transport::Carrier::automatic},
                                                           {"shm", transport::Carrier::shm},
                                                           {"zmq", transport::Carrier::zmq}};
  options.transport.allowed = carriers.at(raw.transport);
  options.service.carrier = options.transport.allowed;
  options.service.request_timeout = static_cast<Nanoseconds>(raw.request_timeout_s * 1e9);
  options.drain_timeout = static_cast<Nanoseconds>(raw.drain_timeout_s * 1e9);
  const RealClock clock;
  options.service.incarnation = static_cast<std::uint64_t>(clock.wall_now());
  options.service.seed = mix64(options.service.incarnation) ^ mix64(std::random_device{}());
  FULGUR_RETURN_IF_ERROR(
      split_host_port(raw.admin, options.service.admin_host, options.service.admin_port));
  FULGUR_RETURN_IF_ERROR(read_cpus(raw.cpus, options.cpus));
  return read_api_key(raw.api_key_file, options.service.api_key);
}

}  // namespace

std::optional<int> parse_options(int argc, const char* const* argv, Options& options) {
  CLI::App app("The front door of a Fulgur mesh: OpenAI API, tokenizer, admission, streams",
               "fulgur-router");
  RawFlags raw;
  add_common_flags(app, options, raw);
  add_router_flags(app, options, raw);
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp& help) {
    return app.exit(help);
  } catch (const CLI::ParseError& wrong) {
    fmt::print(stderr, "fulgur-router: {}\n", wrong.what());
    return 2;
  }
  const Status status = finish(raw, options);
  if (status.is_ok()) return {};
  fmt::print(stderr, "fulgur-router: {}\n", status.message());
  return 2;
}

}  // namespace fulgur::router
