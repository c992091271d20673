#include "cli/options.hpp"

#include <CLI/CLI.hpp>
#include <algorithm>

#include "common/http/client.hpp"

namespace fulgur::cli {
namespace {

constexpr const char* kFooter =
    "Examples:\n"
    "  fulgur up                                  start the bundled model on port 8000\n"
    "  fulgur up --model DIR --experts 4 --detach serve a checkpoint in the background\n"
    "  fulgur status                              who runs, where, what it holds\n"
    "  fulgur scale experts 4                     start or drain expert workers while it serves\n"
    "  fulgur drain expert-1                      move everything away from one, then end it\n"
    "  fulgur chat                                talk to it in this terminal\n"
    "  fulgur down                                end it\n"
    "FLAGS of a command: fulgur COMMAND --help";

void add_port(CLI::App& app, std::uint16_t& port) {
  app.add_option("--port", port, "HTTP port of the mesh")
      ->check(CLI::Range(1, 65535))
      ->capture_default_str();
}

void add_tracing(CLI::App& app, UpOptions& up) {
  app.add_option("--otlp-endpoint", up.otlp_endpoint,
                 "OpenTelemetry collector for traces, http://host:4318 (default: none)")
      ->check(CLI::Validator(
          [](std::string& text) { return http::parse_base_url(text).status().message(); }, "URL"));
  app.add_option("--trace-sample", up.trace_sample,
                 "part of the requests that is traced, 0 to 1 (default: 0.01)")
      ->check(CLI::Range(0.0, 1.0));
}

CLI::App* add_up(CLI::App& app, UpOptions& up) {
  CLI::App* cmd = app.add_subcommand("up", "start a mesh, stream a completion, keep serving");
  cmd->add_option("--model", up.model, "checkpoint directory (default: the bundled fulgur-tiny)");
  cmd->add_option("--host", up.host, "address the HTTP API listens on")->capture_default_str();
  add_port(*cmd, up.port);
  cmd->add_option("--attention", up.attention, "attention shards")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  cmd->add_option("--experts", up.experts, "expert workers")
      ->check(CLI::Range(1, 256))
      ->capture_default_str();
  cmd->add_option("--replicas", up.replicas, "replicas of every expert, on distinct workers")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  cmd->add_option("--activations", up.activations, "type of activations on the wire")
      ->check(CLI::IsMember({"bf16", "f32"}))
      ->capture_default_str();
  cmd->add_option("--transport", up.transport, "payload between processes")
      ->check(CLI::IsMember({"auto", "shm", "zmq"}))
      ->capture_default_str();
  cmd->add_option("--backend", up.backend, "what computes")
      ->check(CLI::IsMember({"cpu", "cuda"}))
      ->capture_default_str();
  cmd->add_option("--isa", up.isa, "instructions of backend cpu; amx has bits of its own")
      ->check(CLI::IsMember({"auto", "avx", "amx", "avx512bf16", "avx512", "avx2"}))
      ->capture_default_str();
  cmd->add_option("--gpus", up.gpus, "GPUs of backend cuda, taken in turn by shards, then workers")
      ->delimiter(',')
      ->check(CLI::Range(0, 1023));
  cmd->add_option("--expert-weights", up.expert_weights, "how experts are kept; fp8: backend cuda")
      ->check(CLI::IsMember({"bf16", "fp8"}))
      ->capture_default_str();
  cmd->add_option("--threads", up.threads, "compute threads of an attention shard (0: by machine)")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  cmd->add_option("--prefix-cache-bytes", up.prefix_cache_bytes,
                  "memory of a shard for states of prompts, for others that begin the same; 0: none")
      ->check(CLI::Range(std::uint64_t{0}, std::uint64_t{1} << 44))
      ->capture_default_str();
  cmd->add_option("--log-level", up.log_level, "of every service's log file")
      ->check(CLI::IsMember({"debug", "info", "warn", "error"}))
      ->capture_default_str();
  cmd->add_option("--rebalance-interval", up.rebalance_interval_s,
                  "seconds between changes of placement for balance; 0: never")
      ->check(CLI::Range(0.0, 86400.0))
      ->capture_default_str();
  cmd->add_option("--spare", up.spare, "replicas more for hot experts, as a part of all experts")
      ->check(CLI::Range(0.0, 64.0))
      ->capture_default_str();
  cmd->add_option("--max-experts", up.max_experts, "most expert workers fulgur scale may start")
      ->check(CLI::Range(1, 256))
      ->capture_default_str();
  cmd->add_option("--max-attention", up.max_attention, "most attention shards it may start")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  cmd->add_flag("--curve", up.curve, "encrypt all links, with a key made for this mesh");
  add_tracing(*cmd, up);
  cmd->add_flag("--quiet", up.quiet, "print errors only");
  cmd->add_flag("--no-demo", up.no_demo, "do not stream a completion first");
  cmd->add_flag("--detach", up.detach, "return when ready, keep serving in the background");
  return cmd;
}

void add_timeout(CLI::App& app, double& timeout_s) {
  app.add_option("--timeout", timeout_s, "seconds to wait until it is done")
      ->check(CLI::Range(0.0, 86400.0))
      ->capture_default_str();
}

CLI::App* add_drain(CLI::App& app, DrainOptions& drain) {
  CLI::App* cmd = app.add_subcommand("drain", "move everything away from a service, then end it");
  cmd->add_option("NAME", drain.name, "expert worker or attention shard")->required();
  add_port(*cmd, drain.port);
  add_timeout(*cmd, drain.timeout_s);
  return cmd;
}

CLI::App* add_undrain(CLI::App& app, DrainOptions& undrain) {
  CLI::App* cmd = app.add_subcommand("undrain", "take back a drain that has not ended");
  cmd->add_option("NAME", undrain.name, "expert worker or attention shard")->required();
  add_port(*cmd, undrain.port);
  return cmd;
}

CLI::App* add_scale(CLI::App& app, ScaleOptions& scale) {
  CLI::App* cmd = app.add_subcommand("scale", "start or drain services until there are COUNT");
  cmd->add_option("POOL", scale.pool, "experts or attention")
      ->required()
      ->check(CLI::IsMember({"experts", "attention"}));
  cmd->add_option("COUNT", scale.count, "how many there shall be")
      ->required()
      ->check(CLI::Range(1, 4096));
  add_port(*cmd, scale.port);
  add_timeout(*cmd, scale.timeout_s);
  return cmd;
}

CLI::App* add_chat(CLI::App& app, ChatOptions& chat) {
  CLI::App* cmd = app.add_subcommand("chat", "talk to a running mesh in this terminal");
  cmd->add_option("--host", chat.host, "where the mesh serves")->capture_default_str();
  add_port(*cmd, chat.port);
  cmd->add_option("--system", chat.system, "system message");
  cmd->add_option("--temperature", chat.temperature, "0: always the likeliest token")
      ->check(CLI::Range(0.0, 2.0))
      ->capture_default_str();
  cmd->add_option("--max-tokens", chat.max_tokens, "longest answer")
      ->check(CLI::Range(1, 1000000))
      ->capture_default_str();
  return cmd;
}

CLI::App* add_demo(CLI::App& app, DemoOptions& demo) {
  CLI::App* cmd =
      app.add_subcommand("demo", "a tour: kill an expert worker mid-stream, compare every token");
  cmd->add_option("--model", demo.model, "checkpoint directory (default: the bundled fulgur-tiny)");
  cmd->add_option("--port", demo.port, "HTTP port (0: any free one)")
      ->check(CLI::Range(0, 65535))
      ->capture_default_str();
  cmd->add_option("--experts", demo.experts, "expert workers")
      ->check(CLI::Range(2, 256))
      ->capture_default_str();
  cmd->add_option("--tokens", demo.tokens, "length of the stream")
      ->check(CLI::Range(8, 100000))
      ->capture_default_str();
  return cmd;
}

CLI::App* add_plan(CLI::App& app, PlanOptions& plan) {
  CLI::App* cmd = app.add_subcommand("plan", "how many GPUs a model needs and how fast it will be");
  cmd->add_option("--model", plan.model, "M1, Text-01 or a checkpoint directory")
      ->capture_default_str();
  cmd->add_option("--gpu", plan.gpu, "h100, h200, h20, cpu or FILE.json")->capture_default_str();
  cmd->add_option("--gpus", plan.gpus, "how many")->check(CLI::Range(1, 1024));
  cmd->add_option("--context", plan.context, "tokens of a sequence, the mean of those in flight")
      ->check(CLI::Range(1.0, 1e9))
      ->capture_default_str();
  cmd->add_option("--tpot", plan.tpot_ms, "milliseconds between tokens at most")
      ->check(CLI::Range(1e-3, 1e6))
      ->capture_default_str();
  cmd->add_option("--prompt", plan.prompt, "prompt tokens of a request; 0: decode alone")
      ->check(CLI::Range(0.0, 1e9))
      ->capture_default_str();
  cmd->add_option("--output", plan.output, "generated tokens of a request, with --prompt")
      ->check(CLI::Range(1.0, 1e9))
      ->capture_default_str();
  cmd->add_option("--weights", plan.weights, "of experts")
      ->check(CLI::IsMember({"bf16", "fp8"}))
      ->capture_default_str();
  cmd->add_option("--spare", plan.spare, "replicas beyond one of each expert, as a part of all")
      ->check(CLI::Range(0.0, 64.0))
      ->capture_default_str();
  cmd->add_option("--headroom", plan.headroom, "part of a GPU's memory to leave free")
      ->check(CLI::Range(0.0, 0.99))
      ->capture_default_str();
  cmd->add_option("--batch-tokens", plan.batch_tokens, "a shard's, at least: takes its memory")
      ->check(CLI::Range(1, 65536))
      ->capture_default_str();
  cmd->add_option("--batch-rows", plan.batch_rows, "a worker's: takes its memory")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  cmd->add_option("--split", plan.split, "ATTENTION:EXPERTS or colocated, instead of the best");
  cmd->add_option("--micro-batches", plan.micro_batches, "instead of the best of 1 to 4")
      ->check(CLI::Range(1, 4));
  cmd->add_option("--sequences", plan.sequences, "how fast it is with as many, whatever --tpot")
      ->check(CLI::Range(1, 1 << 24));
  cmd->add_option("--alternatives", plan.alternatives, "other splits to show")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  cmd->add_option("--print-profile", plan.print_profile, "print a --gpu's tables, then end");
  cmd->add_flag("--json", plan.json, "machine-readable");
  return cmd;
}

CLI::App* add_bench(CLI::App& app, BenchOptions& bench) {
  CLI::App* cmd =
      app.add_subcommand("bench",
                         "run a benchmark: transport, engine, serve, placement, telemetry, "
                         "kernels, tokenizer, gpu-transport");
  cmd->add_option("BENCH", bench.bench, "which one")
      ->required()
      ->check(CLI::IsMember({"transport", "engine", "serve", "placement", "telemetry", "kernels",
                             "tokenizer", "gpu-transport"}));
  cmd->add_option("ARGUMENTS", bench.arguments, "handed to it as they are");
  cmd->prefix_command();
  return cmd;
}

// CLI11 would consume a benchmark's own flags, its --help included; they are cut off before.
std::vector<std::string> cut_bench_arguments(std::vector<std::string>& arguments) {
  if (arguments.size() <= 2 || arguments[0] != "bench" || arguments[1].starts_with('-')) return {};
  std::vector<std::string> rest(arguments.begin() + 2, arguments.end());
  arguments.resize(2);
  return rest;
}

std::string one_line(std::string text) {
  std::replace(text.begin(), text.end(), '\n', ' ');
  return text;
}

}  // namespace

Parsed parse_command_line(std::vector<std::string> arguments) {
  CLI::App app("Fulgur serves mixture-of-experts language models from a mesh of processes.",
               "fulgur");
  app.footer(kFooter);
  app.set_version_flag("--version", "fulgur " FULGUR_VERSION);
  app.require_subcommand(0, 1);
  UpOptions up;
  DownOptions down;
  StatusOptions status;
  DrainOptions drain;
  DrainOptions undrain;
  undrain.undo = true;
  ScaleOptions scale;
  ChatOptions chat;
  DemoOptions demo;
  CheckOptions check;
  PlanOptions plan;
  SynthOptions synth;
  KeygenOptions keygen;
  BenchOptions bench;
  const CLI::App* up_cmd = add_up(app, up);
  CLI::App* down_cmd = app.add_subcommand("down", "end a mesh");
  add_port(*down_cmd, down.port);
  CLI::App* status_cmd = app.add_subcommand("status", "show the services of a mesh");
  add_port(*status_cmd, status.port);
  status_cmd->add_flag("--json", status.json, "machine-readable");
  const CLI::App* drain_cmd = add_drain(app, drain);
  const CLI::App* undrain_cmd = add_undrain(app, undrain);
  const CLI::App* scale_cmd = add_scale(app, scale);
  const CLI::App* chat_cmd = add_chat(app, chat);
  const CLI::App* demo_cmd = add_demo(app, demo);
  CLI::App* check_cmd =
      app.add_subcommand("check", "say what a checkpoint is and what is wrong with it");
  check_cmd->add_option("DIR", check.directory, "checkpoint directory")->required();
  check_cmd->add_flag("--json", check.json, "machine-readable");
  const CLI::App* plan_cmd = add_plan(app, plan);
  CLI::App* synth_cmd = app.add_subcommand("synth", "write a seeded random checkpoint");
  synth_cmd->add_option("--preset", synth.preset, "which shape")->required();
  synth_cmd->add_option("--out", synth.out, "directory to create")->required();
  synth_cmd->add_option("--seed", synth.seed, "same seed, same bytes")->capture_default_str();
  CLI::App* keygen_cmd =
      app.add_subcommand("keygen", "make the key by which the services of a mesh know each other");
  keygen_cmd->add_option("--out", keygen.out, "directory to write curve.key to")->required();
  const CLI::App* bench_cmd = add_bench(app, bench);

  if (!arguments.empty() && arguments[0] == "help") arguments[0] = "--help";
  const auto bench_arguments = cut_bench_arguments(arguments);
  std::reverse(arguments.begin(), arguments.end());  // CLI11 takes a stack
  try {
    app.parse(arguments);
  } catch (const CLI::CallForHelp&) {
    return {std::nullopt, 0, app.help()};
  } catch (const CLI::CallForVersion& version) {
    return {std::nullopt, 0, std::string(version.what()) + "\n"};
  } catch (const CLI::ParseError& bad) {
    return {std::nullopt, 2, "fulgur: " + one_line(bad.what()) + " (see fulgur --help)\n"};
  }
  if (up_cmd->parsed()) return {up, 0, {}};
  if (down_cmd->parsed()) return {down, 0, {}};
  if (status_cmd->parsed()) return {status, 0, {}};
  if (drain_cmd->parsed()) return {drain, 0, {}};
  if (undrain_cmd->parsed()) return {undrain, 0, {}};
  if (scale_cmd->parsed()) return {scale, 0, {}};
  if (chat_cmd->parsed()) return {chat, 0, {}};
  if (demo_cmd->parsed()) return {demo, 0, {}};
  if (check_cmd->parsed()) return {check, 0, {}};
  if (plan_cmd->parsed()) return {plan, 0, {}};
  if (synth_cmd->parsed()) return {synth, 0, {}};
  if (keygen_cmd->parsed()) return {keygen, 0, {}};
  if (bench_cmd->parsed()) {
    bench.arguments = bench_arguments;
    return {bench, 0, {}};
  }
  return {std::nullopt, 0, app.help()};
}

}  // namespace fulgur::cli
