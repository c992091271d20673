// fulgur-bench-serve: load on an OpenAI-compatible server, by a Poisson process (--rate) or with a
// fixed number of streams (--concurrency). Exit code: 0, 1 when a request failed or nobody
// answers, 2 for a bad flag.
#include <CLI/CLI.hpp>
#include <curl/curl.h>

#include <cstdio>
#include <nlohmann/json.hpp>

#include "bench/serve/report.hpp"
#include "cli/http_client.hpp"
#include "common/base/memory.hpp"

using namespace fulgur;
using namespace fulgur::bench::serve;

namespace {

constexpr std::uint64_t kTokensMax = 50'000'000;  // bounds the samples kept in memory
constexpr std::uint64_t kWarmupIndex = 1ULL << 40;  // apart from the measured requests

struct Options {
  std::string url = "http://127.0.0.1:8000";
  double rate = 0;
  std::uint32_t concurrency = 0;
  std::uint32_t requests = 64;
  std::uint32_t connections_max = 256;
  std::uint32_t warmup = 1;
  std::string prompt = "128";
  std::string output = "32";
  double request_timeout_s = 300;
  double deadline_s = 600;
  bool json = false;
  Workload workload;
};

Nanoseconds seconds(double value) {
  return static_cast<Nanoseconds>(value * static_cast<double>(kSecond));
}

void add_flags(CLI::App& app, Options& options) {
  app.add_option("--url", options.url, "the server")->capture_default_str();
  auto* rate = app.add_option("--rate", options.rate, "open loop: Poisson arrivals a second");
  rate->check(CLI::Range(1e-3, 1e6));
  app.add_option("--concurrency", options.concurrency, "closed loop: streams at a time (default 8)")
      ->check(CLI::Range(1, 4096))->excludes(rate);
  app.add_option("--requests", options.requests)->check(CLI::Range(1, 1'000'000))
      ->capture_default_str();
  app.add_option("--prompt", options.prompt, "tokens, or lo:hi")->capture_default_str();
  app.add_option("--output", options.output, "tokens, or lo:hi")->capture_default_str();
  app.add_option("--seed", options.workload.seed)->capture_default_str();
  app.add_option("--temperature", options.workload.temperature)->check(CLI::Range(0.0, 2.0))
      ->capture_default_str();
  app.add_option("--model", options.workload.model, "default: the first of /v1/models");
  app.add_option("--vocab", options.workload.vocab,
                 "prompts are ids below it (default: vocab_size in /v1/models)")
      ->check(CLI::Range(1, 1 << 24));
  app.add_option("--warmup", options.warmup, "requests before the measured ones")
      ->check(CLI::Range(0, 100'000))->capture_default_str();
  app.add_option("--max-connections", options.connections_max, "of the open loop; more wait")
      ->check(CLI::Range(1, 4096))->capture_default_str();
  app.add_option("--request-timeout", options.request_timeout_s, "seconds from the arrival")
      ->check(CLI::Range(0.01, 86400.0))->capture_default_str();
  app.add_option("--deadline", options.deadline_s, "seconds of the run; the rest is cancelled")
      ->check(CLI::Range(0.01, 86400.0))->capture_default_str();
  app.add_flag("--json", options.json);
}

Status check(Options& options) {
  while (options.url.ends_with('/')) options.url.pop_back();
  if (!options.url.starts_with("http://") && !options.url.starts_with("https://"))
    return error(Code::invalid_argument, "--url {}: expected http://host:port", options.url);
  FULGUR_ASSIGN_OR_RETURN(options.workload.prompt, parse_lengths("--prompt", options.prompt));
  FULGUR_ASSIGN_OR_RETURN(options.workload.output, parse_lengths("--output", options.output));
  if (std::uint64_t{options.requests} * options.workload.output.most > kTokensMax)
    return error(Code::invalid_argument, "--requests times --output is more than {} tokens",
                 kTokensMax);
  if (options.rate <= 0 && options.concurrency == 0) options.concurrency = 8;
  return Status::ok();
}

/// Fills in what the flags left to the server.
Status ask_model(const std::string& url, Workload& workload) {
  cli::HttpClient client(url);
  FULGUR_ASSIGN_OR_RETURN(const auto response, client.get("/v1/models", 10 * kSecond));
  const auto body = nlohmann::json::parse(response.body, nullptr, false);
  const bool listed = response.status == 200 && body.is_object() && body.contains("data") &&
                      body["data"].is_array() && !body["data"].empty() &&
                      body["data"][0].is_object();
  if (!listed)
    return error(Code::unavailable, "{}/v1/models: HTTP {} without a model", url, response.status);
  const auto& model = body["data"][0];
  if (workload.model.empty() && model.contains("id") && model["id"].is_string())
    workload.model = model["id"].get<std::string>();
  if (workload.vocab == 0 && model.contains("vocab_size") &&
      model["vocab_size"].is_number_unsigned())
    workload.vocab = model["vocab_size"].get<std::uint32_t>();
  if (workload.vocab == 0)
    return error(Code::failed_precondition, "{}/v1/models gives no vocab_size: give --vocab", url);
  return Status::ok();
}

Status warm_up(const Clock& clock, const Options& options) {
  LoadOptions load;
  load.url = options.url;
  load.requests = options.warmup;
  load.connections_max = options.rate > 0 ? 8 : options.concurrency;
  load.first_index = kWarmupIndex;
  load.request_timeout = seconds(options.request_timeout_s);
  load.deadline = seconds(options.deadline_s);
  for (const Outcome& outcome : run_load(clock, load, options.workload).outcomes)
    if (!outcome.error.empty())
      return error(Code::unavailable, "warm-up: {}: {}", outcome.error, outcome.detail);
  return Status::ok();
}

Result<Summary> run(Options& options) {
  if (options.workload.model.empty() || options.workload.vocab == 0)
    FULGUR_RETURN_IF_ERROR(ask_model(options.url, options.workload));
  const RealClock clock;
  if (options.warmup > 0) FULGUR_RETURN_IF_ERROR(warm_up(clock, options));
  const bool open_loop = options.rate > 0;
  LoadOptions load;
  load.url = options.url;
  load.requests = options.requests;
  load.connections_max = open_loop ? options.connections_max : options.concurrency;
  load.request_timeout = seconds(options.request_timeout_s);
  load.deadline = seconds(options.deadline_s);
  if (open_loop)
    load.arrivals = poisson_arrivals(options.workload.seed, options.rate, options.requests);
  return summarize(run_load(clock, load, options.workload), open_loop);
}

int fail(const Status& status) {
  std::fprintf(stderr, "fulgur-bench-serve: %s\n", status.message().c_str());
  return status.code() == Code::invalid_argument ? 2 : 1;
}

}  // namespace

int main(int argc, char** argv) {
  tune_allocator();
  curl_global_init(CURL_GLOBAL_DEFAULT);
  CLI::App app("Load on an OpenAI-compatible server", "fulgur-bench-serve");
  Options options;
  add_flags(app, options);
  try {
    app.parse(argc, argv);
  } catch (const CLI::CallForHelp& help) {
    return app.exit(help);
  } catch (const CLI::ParseError& failure) {
    return fail({Code::invalid_argument, failure.what()});
  }
  if (const Status status = check(options); !status.is_ok()) return fail(status);
  const auto summary = run(options);
  if (!summary.is_ok()) return fail(summary.status());
  const std::string text =
      options.json ? to_json(*summary, options.workload) : to_table(*summary);
  std::fwrite(text.data(), 1, text.size(), stdout);
  return summary->errors.empty() ? 0 : 1;
}
