#include "services/router/options.hpp"

#include <CLI/CLI.hpp>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <random>

#include "common/base/rng.hpp"
#include "common/service/service.hpp"

namespace fulgur::router {
namespace {

/// Values of flags that need more than a conversion.
struct RawFlags {
  service::Flags common;
  std::string api_key_file;
  double request_timeout_s = 600;
  double drain_timeout_s = 30;
};

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
  app.add_option("--trace-sample", options.service.trace_sample,
                 "Part of the requests that is traced, 0 to 1, with --otlp-endpoint")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  app.add_option("--drain-timeout", raw.drain_timeout_s, "Seconds streams may take to finish")
      ->check(CLI::Range(0.0, 3600.0));
}

Status read_api_key(const std::string& path, std::string& key) {
  if (path.empty()) return Status::ok();
  errno = 0;
  std::ifstream file(path);
  std::getline(file, key);
  if (file && !key.empty()) return Status::ok();
  const std::string why = errno != 0 ? std::strerror(errno) : "its first line is empty";
  return error(Code::invalid_argument, "--api-key-file: cannot read a key from {}: {}", path, why);
}

Status finish(const RawFlags& raw, Options& options) {
  const service::Flags& common = raw.common;
  options.service.name = common.name;
  options.service.orchestrator = common.orchestrator;
  options.service.worker_threads = common.threads;
  options.service.carrier = common.carrier();
  options.service.otlp_endpoint = common.otlp_endpoint;
  options.transport.listen = common.listen;
  options.transport.allowed = common.carrier();
  options.transport.curve = common.curve;
  options.model.directory = common.model;
  options.cpus = common.cpus;
  options.log_level = common.log_level;
  options.service.request_timeout = static_cast<Nanoseconds>(raw.request_timeout_s * 1e9);
  options.drain_timeout = static_cast<Nanoseconds>(raw.drain_timeout_s * 1e9);
  options.service.incarnation = service::new_incarnation(RealClock());
  options.service.seed = mix64(options.service.incarnation) ^ mix64(std::random_device{}());
  FULGUR_ASSIGN_OR_RETURN(const auto admin, service::split_address(common.admin));
  options.service.admin_host = admin.first;
  options.service.admin_port = admin.second;
  return read_api_key(raw.api_key_file, options.service.api_key);
}

}  // namespace

std::optional<int> parse_options(int argc, char** argv, Options& options) {
  CLI::App app("The front door of a Fulgur mesh: OpenAI API, tokenizer, admission, streams",
               "fulgur-router");
  RawFlags raw;
  raw.common.name = options.service.name;
  service::add_flags(app, raw.common);
  app.get_option("--name")->required(false);
  app.get_option("--orchestrator")->required();
  add_router_flags(app, options, raw);
  if (const auto code = service::parse(app, argc, argv)) return code;
  const Status status = finish(raw, options);
  if (status.is_ok()) return {};
  service::fail("fulgur-router", status);
  return 2;
}

}  // namespace fulgur::router
