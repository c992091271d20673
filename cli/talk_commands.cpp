// fulgur chat and fulgur demo.
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <filesystem>
#include <iostream>
#include <nlohmann/json.hpp>

#include "cli/child.hpp"
#include "cli/commands.hpp"
#include "cli/completion.hpp"
#include "cli/greeting.hpp"
#include "cli/supervision.hpp"

namespace fulgur::cli {
namespace {

using nlohmann::json;

void print(std::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

}  // namespace

int run(const ChatOptions& options) {
  HttpClient client(api_url(options.host, options.port));
  if (const auto ready = client.get("/healthz", 5 * kSecond); !ready.is_ok())
    return fail(error(Code::unavailable, "no mesh answers on {} (start one with: fulgur up)",
                      api_url(options.host, options.port)));
  const bool terminal = isatty(STDIN_FILENO) != 0;
  CompletionRequest request;
  request.max_tokens = options.max_tokens;
  request.temperature = options.temperature;
  const auto reset = [&] {
    request.chat.clear();
    if (!options.system.empty()) request.chat.push_back({"system", options.system});
  };
  reset();
  if (terminal) print("/reset forgets the conversation, Ctrl-D ends\n");
  for (std::string line; terminal && (print("> "), true), std::getline(std::cin, line);) {
    if (line.empty()) continue;
    if (line == "/reset") {
      reset();
      continue;
    }
    request.chat.push_back({"user", line});
    ++request.seed;
    const auto answer = stream_completion(client, request, [](std::string_view text) {
      print(text);
      return true;
    });
    if (!answer.is_ok()) return fail(answer.status());
    if (terminal)
      print(fmt::format("\n[{} tokens, {:.1f}/s]\n", answer->tokens, answer->tokens_per_second()));
    else
      print("\n");
    request.chat.push_back({"assistant", answer->text});
  }
  if (terminal) print("\n");
  return 0;
}

namespace {

/// The mesh of one demo, and the same prompt run through it with and without a death.
class Demo {
 public:
  explicit Demo(const DemoOptions& options)
      : options_(options), port_(options.port != 0 ? options.port : free_port()) {}
  ~Demo() {
    if (started_) run(DownOptions{port_});
  }
  Demo(const Demo&) = delete;
  Demo& operator=(const Demo&) = delete;

  Status start() {
    UpOptions up;
    up.model = options_.model;
    up.port = port_;
    up.experts = options_.experts;
    up.no_demo = true;
    up.detach = true;
    if (run(up) != 0) return Status(Code::unavailable, "the mesh did not start");
    started_ = true;
    return Status::ok();
  }

  /// Streams the story; after `kill_after` tokens kills `victim` (0: nobody).
  Result<CompletionResult> tell(std::uint32_t kill_after, const std::string& victim) {
    CompletionRequest request;
    request.prompt = "Once upon a time there was a fox who lived by a river.";
    request.max_tokens = options_.tokens;
    request.temperature = 0.7;
    request.ignore_eos = true;
    HttpClient client(api_url("127.0.0.1", port_));
    std::uint32_t pieces = 0;
    return stream_completion(client, request, [&](std::string_view text) {
      print(text);
      if (++pieces == kill_after) kill_now(victim);
      return true;
    });
  }

  /// Waits until `victim` runs again under another pid and every expert is replicated.
  Status healed(const std::string& victim) {
    constexpr int kAttempts = 30 * 20;
    for (int attempt = 0; attempt < kAttempts; ++attempt, usleep(50'000)) {
      const json mesh = look();
      if (!mesh.is_object() || !mesh.value("ready", false)) continue;
      if (mesh.value("phase", "") != "idle" || mesh.value("replicas", 0) < 2) continue;
      for (const auto& service : mesh["services"])
        if (service.value("name", "") == victim && service.value("pid", 0) != killed_pid_) {
          print(fmt::format(
              "{} is back as pid {}; placement epoch {}, {} replicas of every expert\n", victim,
              service.value("pid", 0), mesh.value("epoch", 0), mesh.value("replicas", 0)));
          return Status::ok();
        }
    }
    return error(Code::deadline_exceeded, "{} did not come back", victim);
  }

 private:
  json look() const {
    const auto record = RunDir::of(port_).read();
    if (!record.is_ok()) return {};
    HttpClient orchestrator("http://" + record->orchestrator_admin);
    const auto answer = orchestrator.get("/v1/mesh", kSecond);
    return answer.is_ok() ? json::parse(answer->body, nullptr, false) : json();
  }
  void kill_now(const std::string& victim) {
    const auto record = RunDir::of(port_).read();
    if (!record.is_ok()) return;
    for (const auto& service : record->services)
      if (service.name == victim && service.pid > 0) {
        killed_pid_ = service.pid;
        kill(service.pid, SIGKILL);
        print(fmt::format("\n  *** kill -9 {} ({}) ***\n", service.pid, victim));
      }
  }

  DemoOptions options_;
  std::uint16_t port_;
  bool started_ = false;
  pid_t killed_pid_ = 0;
};

}  // namespace

int run(const DemoOptions& options) {
  const std::string victim = "expert-1";
  Demo demo(options);
  print("1. A mesh of processes on this machine.\n");
  if (const Status up = demo.start(); !up.is_ok()) return fail(up);
  print("\n2. A completion, undisturbed.\n");
  const auto calm = demo.tell(0, victim);
  if (!calm.is_ok()) return fail(calm.status());
  print(fmt::format("\n\n3. The same completion; {} is killed in the middle of it.\n", victim));
  const auto disturbed = demo.tell(options.tokens / 4, victim);
  if (!disturbed.is_ok()) return fail(disturbed.status());
  if (disturbed->text != calm->text)
    return fail(Status(Code::internal, "the two texts differ: that must not happen"));
  print(fmt::format("\n\n4. {} tokens, every one the same.\n", disturbed->tokens));
  if (const Status healed = demo.healed(victim); !healed.is_ok()) return fail(healed);
  return 0;
}

}  // namespace fulgur::cli
