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
  // floor(72e9 / 339,738,624) = 211 experts a device; 3200 / 211 = 15.2.
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
  const auto fit = fit_memory(request, {8, 16, false});
  ASSERT_TRUE(fit.is_ok());
  // floor((72e9 - 42,479,890,432) / 775,946,240) = 38 a shard.
  EXPECT_EQ(attention_bytes(request.model.config), 42'479'890'432ULL);
  EXPECT_EQ(fit->sequences_max, 8U * 38);
}

TEST(MemoryFit, SaysWhatDoesNotFit) {
  const auto experts = fit_memory(request_for("M1", "h100", 8), {1, 7, false});
  EXPECT_EQ(experts.status().message(),
            "experts need 869.7 GB bf16 for one replica of each, 1087.2 GB with 25 % spare; 7 x "
            "72.0 GB are usable: at least 16 expert devices, 13 without spare");
  Request small = request_for("M1", "h100", 24);
  small.profile.memory_gb = 40;
  EXPECT_EQ(fit_memory(small, {1, 30, false}).status().message(),
            "attention weights need 42.5 GB on every attention device and 36.0 GB of one are "
            "usable; they are not split over devices");
  Request lengthy = request_for("M1", "h100", 24);
  lengthy.context = 1'000'000;
  const auto kv = fit_memory(lengthy, {8, 16, false});
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
  const auto fit = fit_memory(request, {1, 1, true});
  ASSERT_TRUE(fit.is_ok());
  EXPECT_EQ(fit->copies, 1);
  EXPECT_EQ(fit->experts, 128.0 * 339'738'624);
  EXPECT_FALSE(fit_memory(request_for("M1", "h100", 24), {24, 24, true}).is_ok());
}

}  // namespace
}  // namespace fulgur::planner
