#include "cli/greeting.hpp"

#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "cli/completion.hpp"

namespace fulgur::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

constexpr useconds_t kPollPeriod_us = 50'000;

/// Whether the checkpoint brings a chat template, as a file or inside tokenizer_config.json.
bool has_chat_template(const std::string& model) {
  if (fs::exists(model + "/chat_template.jinja")) return true;
  std::ifstream file(model + "/tokenizer_config.json");
  const json config = json::parse(file, nullptr, false);
  return config.is_object() && config.contains("chat_template");
}

}  // namespace

std::string api_url(const std::string& host, std::uint16_t port) {
  std::string reachable = host;
  if (host == "0.0.0.0" || host == "::" || host == "*") reachable = "127.0.0.1";
  if (reachable.find(':') != std::string::npos) reachable = "[" + reachable + "]";
  return fmt::format("http://{}:{}", reachable, port);
}

Greeting::Greeting(const UpOptions& options, std::string model, const RunDir& dir)
    : options_(options), model_(std::move(model)), dir_(dir) {}

Greeting::~Greeting() {
  stop();
  if (thread_.joinable()) thread_.join();
}

void Greeting::start() {
  thread_ = std::thread([this] { run(); });
}

void Greeting::say(const std::string& line) const {
  if (options_.quiet) return;
  std::fputs((line + "\n").c_str(), stdout);
  std::fflush(stdout);
}

void Greeting::run() {
  if (wait_until_ready()) {
    ready_.store(true);
    if (!options_.no_demo && !options_.quiet) stream_one();
    if (const auto record = dir_.read(); record.is_ok())
      say(fmt::format("operations page: http://{}/", record->orchestrator_admin));
    say(fmt::format(
        "serving {0} (OpenAI API: {0}/v1; page: {0}/); end with {1}",
        api_url(options_.host, options_.port),
        options_.detach ? fmt::format("fulgur down --port {}", options_.port) : "Ctrl-C"));
  }
  done_.store(true);
}

bool Greeting::wait_until_ready() {
  const auto start = std::chrono::steady_clock::now();
  const auto elapsed = [&] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  };
  std::set<std::string> seen;
  HttpClient api(api_url(options_.host, options_.port));
  for (; !stopping_.load(); usleep(kPollPeriod_us)) {
    const auto record = dir_.read();
    if (!record.is_ok()) continue;
    HttpClient orchestrator("http://" + record->orchestrator_admin);
    const auto answer = orchestrator.get("/v1/mesh", kSecond);
    if (!answer.is_ok() || answer->status != 200) continue;
    const json mesh = json::parse(answer->body, nullptr, false);
    if (!mesh.is_object()) continue;
    for (const auto& service : mesh.value("services", json::array())) {
      const std::string name = service.value("name", "");
      if (seen.insert(name).second)
        say(fmt::format("  {:14} up after {:.1f} s  pid {}", name, elapsed(),
                        service.value("pid", 0)));
    }
    if (!mesh.value("ready", false)) continue;
    const auto readiness = api.get("/readyz", kSecond);
    if (!readiness.is_ok() || readiness->status != 200) continue;
    say(fmt::format("ready after {:.1f} s: placement epoch {}, {} replicas of every expert",
                    elapsed(), mesh.value("epoch", 0), mesh.value("replicas", 0)));
    if (const auto problem = mesh.value("problem", ""); !problem.empty()) say("note: " + problem);
    return true;
  }
  return false;
}

void Greeting::stream_one() {
  if (!fs::exists(model_ + "/tokenizer.json")) {
    say("the checkpoint has no tokenizer: prompts are token ids");
    return;
  }
  CompletionRequest request;
  request.max_tokens = 96;
  request.temperature = 0.7;
  request.prompt = "Once upon a time";
  if (has_chat_template(model_)) {
    request.prompt = "Tell me a story about a fox and a river.";
    request.chat = {{"user", request.prompt}};
  }
  say(fmt::format("\n> {}", request.prompt));
  HttpClient client(api_url(options_.host, options_.port));
  const auto result = stream_completion(client, request, [this](std::string_view text) {
    std::fwrite(text.data(), 1, text.size(), stdout);
    std::fflush(stdout);
    return !stopping_.load();
  });
  if (!result.is_ok()) {
    say("\nthe completion failed: " + result.status().message());
    return;
  }
  say(fmt::format("\n\n{} tokens, first after {:.2f} s, then {:.1f} tokens/s\n", result->tokens,
                  result->first_token_s, result->tokens_per_second()));
}

}  // namespace fulgur::cli
