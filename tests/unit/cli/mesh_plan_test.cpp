// Processes and arguments of a mesh, the split of processors, restart delays.
#include "cli/mesh_plan.hpp"

#include <gtest/gtest.h>

#include <algorithm>

#include "cli/child.hpp"

namespace fulgur::cli {
namespace {

std::string value_of(const ServicePlan& plan, const std::string& flag) {
  const auto found = std::find(plan.arguments.begin(), plan.arguments.end(), flag);
  return found == plan.arguments.end() ? "(absent)" : *(found + 1);
}

TEST(MeshPlan, StartsEveryServiceWithItsArguments) {
  UpOptions options;
  options.port = 9000;
  options.attention = 2;
  options.experts = 3;
  options.activations = "f32";
  options.backend = "cuda";
  options.isa = "avx2";
  options.gpus = {3, 1};
  options.expert_weights = "fp8";
  options.prefix_cache_bytes = 7;
  const auto plans = plan_mesh(options, {"/m", "ipc:///r/"}, {0, 1});
  std::vector<std::string> names;
  for (const auto& plan : plans) names.push_back(plan.name);
  EXPECT_EQ(names, (std::vector<std::string>{"orchestrator", "expert-0", "expert-1", "expert-2",
                                             "attention-0", "attention-1", "router-0"}));
  EXPECT_EQ(plans[0].program, "fulgur-orchestrator");
  EXPECT_EQ(value_of(plans[0], "--expect-experts"), "3");
  EXPECT_EQ(value_of(plans[0], "--expect-attention"), "2");
  EXPECT_EQ(value_of(plans[0], "--activations"), "(absent)");
  EXPECT_EQ(value_of(plans[2], "--listen"), "ipc:///r/expert-1.sock");
  EXPECT_EQ(value_of(plans[2], "--orchestrator"), "ipc:///r/orchestrator.sock");
  EXPECT_EQ(value_of(plans[2], "--cpus"), "1");
  EXPECT_EQ(value_of(plans[3], "--cpus"), "0");
  EXPECT_EQ(value_of(plans[3], "--expert-weights"), "fp8");
  EXPECT_EQ(value_of(plans[4], "--expert-weights"), "(absent)") << "of workers only";
  EXPECT_EQ(value_of(plans[4], "--activations"), "f32");
  EXPECT_EQ(value_of(plans[3], "--prefix-cache-bytes"), "(absent)") << "of shards only";
  EXPECT_EQ(value_of(plans[4], "--prefix-cache-bytes"), "7");
  for (std::size_t i = 1; i < 6; ++i) {
    EXPECT_EQ(value_of(plans[i], "--backend"), "cuda");
    EXPECT_EQ(value_of(plans[i], "--isa"), "avx2");
  }
  EXPECT_EQ(value_of(plans[6], "--port"), "9000");
  EXPECT_EQ(value_of(plans[6], "--max-context"), "65536") << "no more than a shard's KV holds";
  for (const auto& plan : plans) EXPECT_EQ(value_of(plan, "--model"), "/m");
}

TEST(MeshPlan, EveryServiceGetsTheKeyOfTheMesh) {
  UpOptions options;
  for (const auto& plan : plan_mesh(options, {"/m", "ipc:///r/", "/r/curve.key"}, {0})) {
    const auto& arguments = plan.arguments;
    const auto flag = std::find(arguments.begin(), arguments.end(), "--curve-key-file");
    ASSERT_LT(flag + 1, arguments.end()) << plan.name;
    EXPECT_EQ(flag[1], "/r/curve.key");
  }
}

TEST(MeshPlan, OneShardUsesEveryProcessorUnlessTold) {
  UpOptions options;
  EXPECT_EQ(value_of(plan_mesh(options, {}, {0, 1})[3], "--threads"), "2");
  EXPECT_EQ(value_of(plan_mesh(options, {}, {0, 1})[3], "--cpus"), "0,1");
  options.threads = 5;
  EXPECT_EQ(value_of(plan_mesh(options, {}, {0, 1})[3], "--threads"), "5");
}

TEST(MeshPlan, ProcessorsAreSharedOut) {
  const std::vector<int> cpus{2, 3, 4, 5, 6};
  EXPECT_EQ(cpu_slice(cpus, 0, 1), cpus);
  EXPECT_EQ(cpu_slice(cpus, 0, 2), (std::vector<int>{2, 3}));
  EXPECT_EQ(cpu_slice(cpus, 1, 2), (std::vector<int>{4, 5, 6}));
  EXPECT_EQ(cpu_slice(cpus, 6, 8), (std::vector<int>{3}));
}

TEST(Backoff, GrowsWithFailuresAndForgivesAGoodRun) {
  Backoff backoff;
  EXPECT_EQ(backoff.next(0), 0);
  EXPECT_EQ(backoff.next(0), 200 * kMillisecond);
  EXPECT_EQ(backoff.next(0), 400 * kMillisecond);
  for (int i = 0; i < 20; ++i) EXPECT_LE(backoff.next(0), 10 * kSecond);
  EXPECT_EQ(backoff.next(0), 10 * kSecond);
  EXPECT_EQ(backoff.next(60 * kSecond), 0);
}

TEST(MeshPlan, TracingGoesToWhoeverServesRequests) {
  UpOptions options;
  for (const auto& plan : plan_mesh(options, {"/m", "ipc:///r/"}, {0}))
    EXPECT_EQ(value_of(plan, "--otlp-endpoint"), "(absent)");
  options.otlp_endpoint = "http://c:4318";
  options.trace_sample = 0.25;
  for (const auto& plan : plan_mesh(options, {"/m", "ipc:///r/"}, {0})) {
    const bool serves = plan.kind != "orchestrator";
    EXPECT_EQ(value_of(plan, "--otlp-endpoint"), serves ? "http://c:4318" : "(absent)");
    EXPECT_EQ(value_of(plan, "--trace-sample"), plan.kind == "router" ? "0.25" : "(absent)");
  }
}

}  // namespace
}  // namespace fulgur::cli
