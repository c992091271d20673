// Reports on whole, partial and damaged checkpoints.
#include "common/model/inspect.hpp"

#include <gtest/gtest.h>

#include "common/model/synth.hpp"
#include "tests/unit/model/scratch.hpp"

namespace fulgur::model {
namespace {

using Json = nlohmann::ordered_json;

const std::string kSource = FULGUR_SOURCE_DIR;

Inspection report_on(const std::string& directory) {
  auto report = inspect(directory);
  EXPECT_TRUE(report) << report.status().to_string();
  return report ? *report : Inspection{};
}

TEST(InspectTest, MapsEveryNameOfTheReleasedModel) {
  const Inspection report = report_on(kSource + "/tests/golden/minimax-m1");
  EXPECT_EQ(report.names, 8243U);
  EXPECT_EQ(report.mapped, 8243U);
  EXPECT_TRUE(report.unknown.empty());
  EXPECT_TRUE(report.consistent());
  EXPECT_FALSE(report.loadable());
  EXPECT_EQ(report.shards, 413U);
  EXPECT_EQ(report.shards_absent, 413U);
  EXPECT_EQ(report.verified, 0U);
  EXPECT_EQ(report.total().params, report.config.total_params());
  EXPECT_EQ(report.total().bytes, 912'210'767'872U);
  EXPECT_EQ(report.index_total_bytes, report.total().bytes);
  const std::string text = to_text(report);
  EXPECT_NE(text.find("456.09 B total, 45.94 B active"), std::string::npos) << text;
  EXPECT_NE(text.find("8243 listed, 8243 mapped"), std::string::npos) << text;
  EXPECT_NE(text.find("413 of 413 shards are absent"), std::string::npos) << text;
  EXPECT_NE(text.find("shapes were not verified"), std::string::npos) << text;
}

TEST(InspectTest, CompleteCheckpoints) {
  const Inspection small = report_on(kSource + "/tests/golden/models/m1-random-small");
  EXPECT_TRUE(small.loadable());
  EXPECT_EQ(small.layout, "one tensor an expert");
  EXPECT_EQ(small.verified, small.names);
  const Inspection fused = report_on(kSource + "/tests/golden/models/m1-random-small-fused");
  EXPECT_TRUE(fused.loadable());
  EXPECT_EQ(fused.layout, "fused experts");
  EXPECT_EQ(fused.ignored, 8U);
  EXPECT_TRUE(fused.unknown.empty());
  EXPECT_EQ(fused.total().bytes, small.total().bytes);
  EXPECT_TRUE(report_on(kSource + "/models/fulgur-tiny").loadable());
}

TEST(InspectTest, ListsEveryProblemAtOnce) {
  const ScratchDirectory scratch;
  const std::string directory = scratch.at("model");
  ASSERT_TRUE(synthesize({.preset = "odd", .directory = directory}));
  edit_json(directory + "/model.safetensors.index.json", [](Json& json) {
    json["weight_map"].erase("model.norm.weight");
    json["weight_map"].erase("model.layers.1.input_layernorm.weight");
  });
  edit_header(directory + "/model-00000-of-00002.safetensors", [](Json& json) {
    json["model.embed_tokens.weight"]["shape"] = {88, 251};
    json["model.layers.0.self_attn.norm.weight"]["dtype"] = "I16";
  });
  const Inspection report = report_on(directory);
  EXPECT_FALSE(report.consistent());
  ASSERT_EQ(report.missing.size(), 2U);
  EXPECT_EQ(report.missing[0].tensor, "model.layers.1.input_layernorm.weight");
  ASSERT_EQ(report.wrong.size(), 2U);
  EXPECT_EQ(report.wrong[0].what, "has shape [88, 251]; config.json implies [251, 88]");
  EXPECT_EQ(report.wrong[1].what, "has dtype I16; expected BF16, F16 or F32");
  const Json json = Json::parse(to_json(report));
  EXPECT_EQ(json["missing"].size(), 2U);
  EXPECT_EQ(json["loadable"], false);
  EXPECT_NE(to_text(report).find("verdict       damaged"), std::string::npos);
}

TEST(InspectTest, UnknownTensorsAndAbsentShards) {
  const ScratchDirectory scratch;
  const std::string directory = scratch.at("model");
  ASSERT_TRUE(synthesize({.preset = "odd", .directory = directory}));
  std::filesystem::remove(directory + "/model-00001-of-00002.safetensors");
  edit_header(directory + "/model-00000-of-00002.safetensors", [](Json& json) {
    json["extra.weight"] = {{"dtype", "U8"}, {"shape", {0}}, {"data_offsets", {0, 0}}};
  });
  edit_json(directory + "/model.safetensors.index.json", [](Json& json) {
    json["weight_map"]["extra.weight"] = "model-00000-of-00002.safetensors";
  });
  const Inspection report = report_on(directory);
  EXPECT_TRUE(report.consistent());
  EXPECT_FALSE(report.loadable());
  EXPECT_EQ(report.shards_absent, 1U);
  ASSERT_EQ(report.unknown.size(), 1U);
  EXPECT_EQ(report.unknown[0].tensor, "extra.weight");
  EXPECT_LT(report.verified, report.mapped);
}

TEST(InspectTest, DamagedShardIsOneLine) {
  const ScratchDirectory scratch;
  const std::string directory = scratch.at("model");
  ASSERT_TRUE(synthesize({.preset = "odd", .directory = directory}));
  const std::string path = directory + "/model-00001-of-00002.safetensors";
  write_bytes(path, read_bytes(path).substr(0, 200));
  const Inspection report = report_on(directory);
  ASSERT_EQ(report.damaged.size(), 1U);
  EXPECT_NE(report.damaged[0].find(path), std::string::npos);
  EXPECT_TRUE(report.missing.empty());
}

TEST(InspectTest, NothingToReportOn) {
  const ScratchDirectory scratch;
  std::filesystem::create_directory(scratch.at("empty"));
  EXPECT_EQ(inspect(scratch.at("empty")).status().code(), Code::not_found);
  EXPECT_EQ(inspect(scratch.at("absent")).status().code(), Code::not_found);
}

}  // namespace
}  // namespace fulgur::model
