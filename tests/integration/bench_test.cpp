// Smoke tests of the benchmark programs: each ends well and prints every row it was asked for, with
// numbers that can be true. Nothing here is about speed.
#include <gtest/gtest.h>
#include <sched.h>

#include <cmath>
#include <memory>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "tests/integration/mesh.hpp"

namespace fulgur::integration {
namespace {

using nlohmann::json;

/// Runs a benchmark with --json; null when it fails or prints anything else.
json measured(const std::string& name, std::vector<std::string> arguments) {
  arguments.emplace_back("--json");
  const Finished finished = run_program(program(name), arguments);
  EXPECT_EQ(finished.exit_code, 0) << finished.output;
  const json found = json::parse(finished.output, nullptr, false);
  EXPECT_TRUE(found.is_object()) << finished.output;
  return finished.exit_code == 0 && found.is_object() ? found : json();
}

void expect_positive(const json& row, const std::string& field) {
  ASSERT_TRUE(row.contains(field) && row[field].is_number()) << field << ": " << row.dump();
  const auto value = row[field].get<double>();
  EXPECT_TRUE(std::isfinite(value) && value > 0) << field << ": " << row.dump();
}

/// Decode of one and two sequences and a prefill of 64 tokens, each beside its bound.
void expect_engine_rows(json found) {
  ASSERT_TRUE(found.is_object() && found["rows"].is_array());
  std::vector<std::tuple<std::string, int, int>> rows;
  for (json& row : found["rows"]) {
    rows.emplace_back(row["kind"], row["batch"], row["kind"] == "prefill" ? int(row["prompt"]) : 0);
    expect_positive(row, "tokens_per_s");
    expect_positive(row, "bound_tokens_per_s");
  }
  EXPECT_EQ(rows, (decltype(rows){{"decode", 1, 0}, {"decode", 2, 0}, {"prefill", 1, 64}}));
  for (const char* const field :
       {"read_gb_s", "read_best_gb_s", "bf16_gf_s", "bf16_best_gf_s", "f32_gf_s"})
    expect_positive(found["roofline"], field);
}

const std::vector<std::string>& engine_flags() {
  static const std::vector<std::string> flags = {"--model",  tiny_model(), "--threads", "1",
                                                 "--steps",  "4",          "--repeats", "1",
                                                 "--decode", "1,2",        "--prefill", "64"};
  return flags;
}

TEST(Bench, EngineInOneProcess) {
  expect_engine_rows(measured("fulgur-bench-engine", engine_flags()));
}

/// The first two cpus of this process, twice the same where there is one.
std::pair<int, int> two_cpus() {
  cpu_set_t allowed;
  CPU_ZERO(&allowed);
  EXPECT_EQ(sched_getaffinity(0, sizeof allowed, &allowed), 0);
  std::vector<int> cpus;
  for (int cpu = 0; cpu < CPU_SETSIZE && cpus.size() < 2; ++cpu)
    if (CPU_ISSET(static_cast<std::size_t>(cpu), &allowed)) cpus.push_back(cpu);
  return {cpus.front(), cpus.back()};
}

TEST(Bench, Transport) {
  const auto [client, server] = two_cpus();
  json found =
      measured("fulgur-bench-transport",
               {"--rounds", "1", "--round-trips", "10", "--sizes", "12288", "--client-core",
                std::to_string(client), "--server-core", std::to_string(server)});
  ASSERT_TRUE(found.is_object() && found["results"].is_array());
  std::multiset<std::string> names;
  for (json& row : found["results"]) {
    const std::string name = row["transport"];
    names.insert(name);
    EXPECT_EQ(row["bytes"], 12288);
    // gRPC's development files are not among what Fulgur needs.
    if (name.starts_with("grpc-") && row.contains("missing")) continue;
    for (const char* const field : {"round_trip_us_p50", "round_trip_us_p99", "one_way_gb_per_s"})
      expect_positive(row, field);
  }
  EXPECT_EQ(names, (std::multiset<std::string>{"af-unix", "bare-zmq-ipc", "bare-zmq-tcp",
                                               "grpc-tcp", "grpc-unix", "inproc", "shm", "zmq-ipc",
                                               "zmq-ipc-frames", "zmq-tcp", "zmq-tcp-frames"}));
}

/// Programs that measure a mesh that serves.
class BenchMesh : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    mesh_ = std::make_unique<Mesh>();
    const Status started = mesh_->start();
    ASSERT_TRUE(started.is_ok()) << started.message();
  }
  static void TearDownTestSuite() {
    EXPECT_EQ(mesh_->stop(), 0);
    mesh_.reset();
  }

  static std::unique_ptr<Mesh> mesh_;
};

std::unique_ptr<Mesh> BenchMesh::mesh_;

TEST_F(BenchMesh, Engine) {
  std::vector<std::string> flags = engine_flags();
  flags.insert(flags.end(), {"--mesh", std::to_string(mesh_->port())});
  expect_engine_rows(measured("fulgur-bench-engine", flags));
}

TEST_F(BenchMesh, ServeWith64Streams) {
  json found =
      measured("fulgur-bench-serve", {"--url", mesh_->url(), "--concurrency", "64", "--requests",
                                      "96", "--prompt", "4:24", "--output", "8"});
  ASSERT_TRUE(found.is_object());
  EXPECT_EQ(found["requests"], 96);
  EXPECT_EQ(found["succeeded"], 96);
  EXPECT_EQ(found["errors"], json::object());
  EXPECT_EQ(found["in_flight_max"], 64);
  EXPECT_EQ(found["output_tokens"], 96 * 8);
  for (const char* const field : {"elapsed_s", "output_tokens_per_s", "requests_per_s"})
    expect_positive(found, field);
  for (const char* const latency : {"ttft", "end_to_end"})
    for (const char* const field : {"p50_ms", "p90_ms", "p99_ms", "max_ms"})
      expect_positive(found[latency], field);
  // A client that comes late reads several tokens at once: their gaps may be nothing.
  for (const char* const latency : {"ttft", "inter_token", "per_output_token", "end_to_end"})
    expect_positive(found[latency], "samples");
}

}  // namespace
}  // namespace fulgur::integration
