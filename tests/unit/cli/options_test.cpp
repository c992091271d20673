// The command line of fulgur: defaults, values, and one line with exit code 2 for every mistake.
#include "cli/options.hpp"

#include <gtest/gtest.h>

namespace fulgur::cli {
namespace {

template <class Options>
Options parsed(std::vector<std::string> arguments) {
  const Parsed result = parse_command_line(std::move(arguments));
  EXPECT_TRUE(result.command.has_value()) << result.text;
  return result.command ? std::get<Options>(*result.command) : Options{};
}

TEST(Options, UpHasSensibleDefaults) {
  const auto up = parsed<UpOptions>({"up"});
  EXPECT_EQ(up.port, 8000);
  EXPECT_EQ(up.attention, 1U);
  EXPECT_EQ(up.experts, 2U);
  EXPECT_EQ(up.replicas, 2U);
  EXPECT_EQ(up.activations, "bf16");
  EXPECT_EQ(up.transport, "auto");
  EXPECT_FALSE(up.detach);
}

TEST(Options, UpTakesEveryFlag) {
  const auto up =
      parsed<UpOptions>({"up",    "--model",     "m",         "--port",     "9001", "--attention",
                         "3",     "--experts",   "4",         "--replicas", "1",    "--activations",
                         "f32",   "--transport", "zmq",       "--threads",  "2",    "--log-level",
                         "debug", "--quiet",     "--no-demo", "--detach"});
  EXPECT_EQ(up.model, "m");
  EXPECT_EQ(up.port, 9001);
  EXPECT_EQ(up.attention, 3U);
  EXPECT_EQ(up.experts, 4U);
  EXPECT_EQ(up.replicas, 1U);
  EXPECT_EQ(up.activations, "f32");
  EXPECT_EQ(up.transport, "zmq");
  EXPECT_EQ(up.threads, 2U);
  EXPECT_EQ(up.log_level, "debug");
  EXPECT_TRUE(up.quiet && up.no_demo && up.detach);
}

TEST(Options, TracingIsOffUnlessACollectorIsNamed) {
  EXPECT_EQ(parsed<UpOptions>({"up"}).otlp_endpoint, "");
  const auto up =
      parsed<UpOptions>({"up", "--otlp-endpoint", "http://c:4318", "--trace-sample", "0.5"});
  EXPECT_EQ(up.otlp_endpoint, "http://c:4318");
  EXPECT_EQ(up.trace_sample, 0.5);
  EXPECT_EQ(parse_command_line({"up", "--otlp-endpoint", "c:4318"}).exit_code, 2);
  EXPECT_EQ(parse_command_line({"up", "--trace-sample", "1.01"}).exit_code, 2);
}

TEST(Options, OtherCommands) {
  EXPECT_EQ(parsed<DownOptions>({"down", "--port", "9"}).port, 9);
  EXPECT_TRUE(parsed<StatusOptions>({"status", "--json"}).json);
  EXPECT_EQ(parsed<DrainOptions>({"drain", "expert-1", "--port", "9"}).name, "expert-1");
  EXPECT_FALSE(parsed<DrainOptions>({"drain", "expert-1"}).undo);
  EXPECT_TRUE(parsed<DrainOptions>({"undrain", "expert-1"}).undo);
  EXPECT_EQ(parsed<ScaleOptions>({"scale", "experts", "4"}).count, 4U);
  EXPECT_EQ(parse_command_line({"scale", "routers", "4"}).exit_code, 2);
  EXPECT_EQ(parse_command_line({"scale", "experts", "0"}).exit_code, 2);
  EXPECT_EQ(parse_command_line({"drain"}).exit_code, 2);
  EXPECT_EQ(parsed<KeygenOptions>({"keygen", "--out", "d"}).out, "d");
  EXPECT_EQ(parse_command_line({"keygen"}).exit_code, 2);
  EXPECT_TRUE(parsed<UpOptions>({"up", "--curve"}).curve);
  EXPECT_EQ(parsed<CheckOptions>({"check", "dir"}).directory, "dir");
  EXPECT_EQ(parsed<PlanOptions>({"plan", "--gpus", "24"}).gpus, 24U);
  EXPECT_EQ(parsed<PlanOptions>({"plan", "--split", "8:16"}).split, "8:16");
  EXPECT_EQ(parsed<SynthOptions>({"synth", "--preset", "odd", "--out", "o", "--seed", "7"}).seed,
            7U);
  EXPECT_EQ(parsed<ChatOptions>({"chat", "--temperature", "0"}).temperature, 0.0);
}

TEST(Options, BenchHandsItsArgumentsOn) {
  const auto bench = parsed<BenchOptions>({"bench", "transport", "--help", "--size=12", "x"});
  EXPECT_EQ(bench.bench, "transport");
  EXPECT_EQ(bench.arguments, (std::vector<std::string>{"--help", "--size=12", "x"}));
}

TEST(Options, EveryMistakeIsOneLineAndExitCodeTwo) {
  const std::vector<std::vector<std::string>> mistakes = {
      {"bogus"},
      {"--bogus"},
      {"up", "--prot", "8000"},
      {"up", "--port", "99999"},
      {"up", "--port", "abc"},
      {"up", "--port"},
      {"up", "--experts", "0"},
      {"up", "--activations", "f16"},
      {"up", "--transport", "carrier-pigeon"},
      {"up", "extra"},
      {"check"},
      {"plan", "--gpus", "0"},
      {"plan", "--gpus", "8", "--tpot", "0"},
      {"synth", "--out", "x"},
      {"bench"},
      {"bench", "everything"},
      {"down", "up"},
  };
  for (const auto& arguments : mistakes) {
    const Parsed result = parse_command_line(arguments);
    EXPECT_FALSE(result.command.has_value()) << arguments[0];
    EXPECT_EQ(result.exit_code, 2) << arguments[0];
    EXPECT_EQ(result.text.find('\n'), result.text.size() - 1) << result.text;
    EXPECT_EQ(result.text.rfind("fulgur: ", 0), 0U) << result.text;
  }
}

TEST(Options, HelpIsNoMistake) {
  for (const char* word : {"--help", "-h", "help"}) {
    const Parsed result = parse_command_line({word});
    EXPECT_EQ(result.exit_code, 0);
    EXPECT_NE(result.text.find("Examples:"), std::string::npos);
  }
  EXPECT_NE(parse_command_line({}).text.find("Subcommands:"), std::string::npos);
  EXPECT_NE(parse_command_line({"up", "--help"}).text.find("--detach"), std::string::npos);
  EXPECT_EQ(parse_command_line({"--version"}).text.rfind("fulgur ", 0), 0U);
}

}  // namespace
}  // namespace fulgur::cli
