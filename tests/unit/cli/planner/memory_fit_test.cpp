// What a plan holds in memory, to the byte for M1's published config.
#include "cli/planner/memory_fit.hpp"

#include <gtest/gtest.h>

#include "common/model/inspect.hpp"
#include "kernels/include/fulgur/kernels/backend.hpp"

namespace fulgur::planner {
namespace {

Request request_for(const char* model, const char* profile, std::uint32_t devices) {
  Request request;
  request.model = find_shape(model).value();
  request.profile = find_profile(profile).value();
  request.devices = devices;
  return request;
}

std::uint64_t bytes_of(const model::Inspection& report, model::Part part) {
  return report.parts[static_cast<std::size_t>(part)].bytes;
}

TEST(MemoryFit, M1ToTheByte) {
  const Request request = request_for("M1", "h100", 24);
  const SequenceBytes one = sequence_bytes(request);
  EXPECT_EQ(one.state, 70ULL * 4'194'304);
  EXPECT_EQ(one.kv, 8192ULL * 40'960);
  EXPECT_EQ(one.open_block, 70ULL * 64 * 2 * 8192 * 2);
  EXPECT_EQ(one.sum(), one.state + one.kv + one.open_block);
  EXPECT_EQ(expert_bytes(request), 2ULL * 169'869'312);
  EXPECT_EQ(request.model.config.total_params(), 456'089'655'296ULL);
  EXPECT_EQ(80 * 32 * expert_bytes(request) / 2, 434'865'438'720ULL);
  EXPECT_EQ(replicas_wanted(request, 16), 3200U);
  EXPECT_EQ(replicas_wanted(request, 1), 2560U) << "one worker needs no second replica";
  // Working memory of a worker is 1,447,781,632 bytes (working_memory_test) with the driver's 500
  // MB: floor((72e9 - that) / 339,738,624) = 207 experts a device; 3200 / 207 = 15.5.
  EXPECT_EQ(worker_working(request).device(), 1'547'781'632U);
  EXPECT_EQ(expert_devices_min(request), 16U);
}

TEST(MemoryFit, TheOpenBlockIsTheKernels) {
  const Request request = request_for("M1", "h100", 24);
  EXPECT_EQ(sequence_bytes(request).open_block,
            70ULL * kernels::kLightningBlock * 2 * request.model.config.attention_width() * 2);
}

TEST(MemoryFit, NamedShapesAreThePublishedConfigAndWhatCheckCounts) {
  const auto report = model::inspect(FULGUR_SOURCE_DIR "/tests/golden/minimax-m1").value();
  for (const char* name : {"M1", "Text-01"}) {
    const model::ModelConfig config = find_shape(name).value().config;
    EXPECT_EQ(config.total_params(), report.config.total_params()) << name;
    EXPECT_EQ(config.attention, report.config.attention) << name;
    EXPECT_EQ(config.state_bytes_per_sequence(), report.config.state_bytes_per_sequence());
    EXPECT_EQ(config.kv_bytes_per_token(), report.config.kv_bytes_per_token());
    EXPECT_EQ(config.max_positions, report.config.max_positions);
    EXPECT_EQ(config.postnorm, report.config.postnorm);
    EXPECT_EQ(attention_bytes(config),
              bytes_of(report, model::Part::embedding) + bytes_of(report, model::Part::head) +
                  bytes_of(report, model::Part::attention) + bytes_of(report, model::Part::router) +
                  bytes_of(report, model::Part::norm));
  }
  const Request request = request_for("M1", "h100", 24);
  EXPECT_EQ(2560 * expert_bytes(request), bytes_of(report, model::Part::expert));
}

TEST(MemoryFit, ADirectoryIsReadLikeCheckReadsIt) {
  const auto shape = find_shape(FULGUR_SOURCE_DIR "/tests/golden/minimax-m1");
  ASSERT_TRUE(shape.is_ok());
  EXPECT_EQ(shape->config.total_params(), 456'089'655'296ULL);
  EXPECT_EQ(find_shape("/no/such/directory").status().code(), Code::not_found);
  EXPECT_EQ(find_shape(FULGUR_SOURCE_DIR "/docs").status().code(), Code::not_found);
}

TEST(MemoryFit, SequencesFillWhatWeightsLeave) {
  const Request request = request_for("M1", "h100", 24);
  const auto fit = fit_memory(request, {8, 16, false}, 1);
  ASSERT_TRUE(fit.is_ok());
  // 72e9 - 42,479,890,432 = 29,520,109,568 bytes would be 38 sequences of 775,946,240. 36 leave
  // 1,586 MB, but for as many the working memory is 1,747: activations 263, graphs 89, process 734,
  // scratch 660 (an eighth more than 512 MiB of partial results and 50 MB). 35 leave 2,362.
  EXPECT_EQ(attention_bytes(request.model.config), 42'479'890'432ULL);
  EXPECT_NEAR(static_cast<double>(shard_working(request, 36, 1).device()), 1'747e6, 1e6);
  EXPECT_EQ(fit->sequences_max, 8U * 35);
  EXPECT_EQ(fit->shard.device(), shard_working(request, 35, 1).device());
  EXPECT_EQ(fit->worker.device(), worker_working(request).device());
}

TEST(MemoryFit, WorkingMemoryIsForThePlansLimits) {
  Request request = request_for("M1", "h100", 24);
  // Ends of two chunks of 64 MiB, and the driver's share.
  EXPECT_EQ(shard_working(request, 32, 2).process, 134'217'728U + 600'000'000);
  EXPECT_EQ(shard_working(request, 32, 2).scratch,
            shard_working_memory(request.model.config, {32, 32 * 8192, 512, 2}).scratch);
  // 2,000 sequences in two micro-batches want batches of 1,000 rows.
  EXPECT_EQ(shard_working(request, 2000, 2).activations,
            shard_working_memory(request.model.config, {2000, 2000 * 8192, 1000, 2}).activations);
  request.profile = find_profile("cpu").value();
  EXPECT_EQ(shard_working(request, 32, 2).device(), 0U) << "nothing is taken ahead of a host";
  EXPECT_EQ(worker_working(request).device(), 0U);
}

TEST(MemoryFit, SaysWhatDoesNotFit) {
  const auto experts = fit_memory(request_for("M1", "h100", 8), {1, 7, false}, 1);
  EXPECT_EQ(
      experts.status().message(),
      "experts need 869.7 GB bf16 for one replica of each, 1087.2 GB with 25 % spare; 7 x "
      "70.5 GB are usable beside working memory: at least 16 expert devices, 13 without spare");
  Request small = request_for("M1", "h100", 24);
  small.profile.memory_gb = 40;
  EXPECT_EQ(
      fit_memory(small, {1, 30, false}, 1).status().message(),
      "attention weights need 42.5 GB on every attention device, working memory 1.2, and 36.0 "
      "GB of one are usable; weights are not split over devices");
  Request lengthy = request_for("M1", "h100", 24);
  lengthy.context = 1'000'000;
  const auto kv = fit_memory(lengthy, {8, 16, false}, 1);
  EXPECT_NE(kv.status().message().find("a sequence of 1000000 tokens needs 41.40 GB"),
            std::string::npos)
      << kv.status().message();
  Request tiny = request_for("M1", "h100", 24);
  tiny.profile.memory_gb = 0.3;
  EXPECT_EQ(expert_devices_min(tiny), 0U);
}

TEST(MemoryFit, Fp8HalvesExpertsOnly) {
  Request request = request_for("M1", "h100", 24);
  request.fp8_experts = true;
  EXPECT_EQ(expert_bytes(request), 169'869'312ULL);
  EXPECT_EQ(expert_devices_min(request), 8U);
}

TEST(MemoryFit, ColocatedDevicesHoldBoth) {
  const Request request = request_for("M1-4-layers", "h100", 1);
  const auto fit = fit_memory(request, {1, 1, true}, 1);
  ASSERT_TRUE(fit.is_ok());
  EXPECT_EQ(fit->copies, 1);
  EXPECT_EQ(fit->experts, 128.0 * 339'738'624);
  EXPECT_FALSE(fit_memory(request_for("M1", "h100", 24), {24, 24, true}, 1).is_ok());
}

}  // namespace
}  // namespace fulgur::planner
