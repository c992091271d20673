// What a user asked for: the command line of `fulgur` as a value. Parsing has no effects.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>
#include <vector>

namespace fulgur::cli {

inline constexpr std::uint16_t kDefaultPort = 8000;

struct UpOptions {
  std::string model;  ///< empty: the bundled fulgur-tiny
  std::string host = "127.0.0.1";
  std::uint16_t port = kDefaultPort;
  std::uint32_t attention = 1;
  std::uint32_t experts = 2;
  std::uint32_t replicas = 2;
  std::string activations = "bf16";
  std::string transport = "auto";
  std::string backend = "cpu";
  std::string isa = "auto";  ///< of backend cpu
  std::vector<std::uint32_t> gpus{0};  ///< that services of backend cuda take in turn
  std::string expert_weights = "bf16";  ///< bf16 | fp8, of backend cuda
  std::uint32_t threads = 0;  ///< of an attention shard; 0: chosen from the machine
  std::uint64_t prefix_cache_bytes = 256ULL << 20;  ///< of an attention shard
  std::string log_level = "info";
  bool quiet = false;
  bool no_demo = false;
  bool detach = false;
  std::uint32_t max_experts = 32;    ///< what `fulgur scale` may go up to
  std::uint32_t max_attention = 8;
  double rebalance_interval_s = 60;
  double spare = 0;
  bool curve = false;  ///< a fresh key in the run directory for every link
  std::string otlp_endpoint;  ///< empty: no tracing
  std::optional<double> trace_sample;
};

struct DownOptions {
  std::uint16_t port = kDefaultPort;
};
struct StatusOptions {
  std::uint16_t port = kDefaultPort;
  bool json = false;
};
struct DrainOptions {
  std::string name;
  std::uint16_t port = kDefaultPort;
  double timeout_s = 120;
  bool undo = false;  ///< `fulgur undrain`
};
struct ScaleOptions {
  std::string pool;  ///< "experts" or "attention"
  std::uint32_t count = 0;
  std::uint16_t port = kDefaultPort;
  double timeout_s = 120;
};
struct ChatOptions {
  std::string host = "127.0.0.1";
  std::uint16_t port = kDefaultPort;
  std::string system;
  double temperature = 0.8;
  std::uint32_t max_tokens = 256;
};
struct DemoOptions {
  std::string model;
  std::uint16_t port = 0;  ///< 0: any free one
  std::uint32_t experts = 3;
  std::uint32_t tokens = 160;
};
struct CheckOptions {
  std::string directory;
  bool json = false;
};
struct PlanOptions {
  std::string model = "M1";
  std::string gpu = "h100";
  std::uint32_t gpus = 0;
  double context = 8192;
  double tpot_ms = 50;
  double prompt = 0;
  double output = 1024;
  std::string weights = "bf16";
  double spare = 0.25;
  double headroom = 0.1;
  std::uint64_t batch_tokens = 512;
  std::uint64_t batch_rows = 8192;
  std::string split;  ///< "A:E" or "colocated"; empty: searched for
  std::uint32_t micro_batches = 0;  ///< 0: searched for
  std::uint32_t sequences = 0;      ///< 0: as many as possible
  std::uint32_t alternatives = 3;
  std::string print_profile;
  bool json = false;
};
struct SynthOptions {
  std::string preset;
  std::string out;
  std::uint64_t seed = 0;
};
struct KeygenOptions {
  std::string out;  ///< directory of curve.key
};
struct BenchOptions {
  std::string bench;
  std::vector<std::string> arguments;  ///< handed on as they are
};

using Command = std::variant<UpOptions, DownOptions, StatusOptions, DrainOptions, ScaleOptions, ChatOptions, DemoOptions,
                             CheckOptions, PlanOptions, SynthOptions, KeygenOptions, BenchOptions>;

/// A command to run, or text and exit code when there is nothing (left) to run: help (0, stdout) or
/// one line about a bad flag (2, stderr).
struct Parsed {
  std::optional<Command> command;
  int exit_code = 0;
  std::string text;
};

/// `arguments` without the program's name.
Parsed parse_command_line(std::vector<std::string> arguments);

}  // namespace fulgur::cli
