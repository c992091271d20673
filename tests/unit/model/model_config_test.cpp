// Both config dialects, their defaults, and decay rates against the oracle's.
#include "common/model/model_config.hpp"

#include <gtest/gtest.h>

#include "tests/unit/model/scratch.hpp"

namespace fulgur::model {
namespace {

using Json = nlohmann::ordered_json;

const std::string kGolden = std::string(FULGUR_SOURCE_DIR) + "/tests/golden";

ModelConfig parse(const Json& json) {
  auto config = ModelConfig::parse(json.dump(), "config.json");
  EXPECT_TRUE(config) << config.status().to_string();
  return config ? *config : ModelConfig{};
}

/// The least a file of each dialect may hold.
Json least(const char* model_type) {
  return {{"model_type", model_type},  {"num_hidden_layers", 4},   {"hidden_size", 64},
          {"num_attention_heads", 16}, {"intermediate_size", 128}, {"num_local_experts", 4},
          {"num_experts_per_tok", 2},  {"vocab_size", 100}};
}

TEST(ModelConfigTest, ReadsTheReleasedModel) {
  const auto config = ModelConfig::load(kGolden + "/minimax-m1");
  ASSERT_TRUE(config) << config.status().to_string();
  EXPECT_EQ(config->dialect, Dialect::original);
  EXPECT_EQ(config->layers, 80U);
  EXPECT_EQ(config->layers_of(AttentionKind::softmax), 10U);
  EXPECT_EQ(config->attention[7], AttentionKind::softmax);
  EXPECT_EQ(config->attention[79], AttentionKind::softmax);
  EXPECT_EQ(config->attention_width(), 8192U);
  EXPECT_EQ(config->rotary_dim, 64U);
  EXPECT_EQ(config->rope_theta, 1e7);
  EXPECT_TRUE(config->postnorm);
  EXPECT_TRUE(config->eos_ids.empty());
  EXPECT_FALSE(config->bos_id);
  EXPECT_FLOAT_EQ(config->mlp_residual.alpha, 3.5565588F);
  EXPECT_EQ(config->lightning_norm_eps, 1e-6F);
  EXPECT_EQ(config->total_params(), 456'089'655'296U);
  EXPECT_EQ(config->active_params(), 45'944'920'064U);
  EXPECT_EQ(config->attention_params(AttentionKind::lightning), 251'666'432U);
  EXPECT_EQ(config->attention_params(AttentionKind::softmax), 113'246'208U);
  EXPECT_EQ(config->state_bytes_per_sequence(), 280U << 20);
  EXPECT_EQ(config->kv_bytes_per_token(), 40'960U);
}

TEST(ModelConfigTest, BothDialectsOfOneModelAgree) {
  const auto a = ModelConfig::load(kGolden + "/models/m1-random-small");
  const auto b = ModelConfig::load(kGolden + "/models/m1-random-small-fused");
  ASSERT_TRUE(a && b);
  EXPECT_EQ(b->dialect, Dialect::transformers);
  EXPECT_EQ(a->attention, b->attention);
  EXPECT_EQ(a->rotary_dim, b->rotary_dim);
  EXPECT_EQ(a->rope_theta, b->rope_theta);
  EXPECT_EQ(a->softmax_residual.alpha, b->softmax_residual.alpha);
  EXPECT_EQ(a->postnorm, b->postnorm);
  EXPECT_EQ(a->total_params(), b->total_params());
  EXPECT_EQ(b->bos_id, 1U);
  EXPECT_EQ(b->eos_ids, std::vector<std::uint32_t>{2});
}

TEST(ModelConfigTest, DecayRatesEqualTheOracles) {
  const auto cases = Json::parse(read_bytes(kGolden + "/model/decay_rates.json"));
  ASSERT_GT(cases.size(), 50U);
  for (const auto& each : cases) {
    ModelConfig config;
    config.dialect = each["dialect"] == "original" ? Dialect::original : Dialect::transformers;
    config.heads = each["heads"];
    config.layers = each["layers"];
    EXPECT_EQ(config.decay_rates(each["layer"]), each["rates"].get<std::vector<float>>()) << each;
  }
}

TEST(ModelConfigTest, DefaultsOfTheTransformersDialect) {
  const ModelConfig config = parse(least("minimax"));
  EXPECT_EQ(config.kv_heads, 8U);
  EXPECT_EQ(config.head_dim, 4U);
  EXPECT_EQ(config.rotary_dim, 4U);
  EXPECT_EQ(config.rope_theta, 1e6);
  EXPECT_EQ(config.max_positions, 131'072U);
  EXPECT_EQ(config.attention[0], AttentionKind::softmax);
  EXPECT_EQ(config.attention[1], AttentionKind::lightning);
  EXPECT_EQ(config.mlp_residual.alpha, 1.0F);
  EXPECT_TRUE(config.postnorm);
  EXPECT_EQ(config.bos_id, 1U);
  EXPECT_EQ(config.eos_ids, std::vector<std::uint32_t>{2});
}

TEST(ModelConfigTest, DefaultsOfTheOriginalDialect) {
  Json json = least("MiniMaxText01");
  json["attn_type_list"] = {0, 0, 0, 1};
  const ModelConfig config = parse(json);
  EXPECT_FALSE(config.postnorm);
  EXPECT_EQ(config.rotary_dim, config.head_dim);
  EXPECT_EQ(config.rms_eps, 1e-5F);
  EXPECT_FALSE(config.bos_id);
  EXPECT_TRUE(config.eos_ids.empty());
}

TEST(ModelConfigTest, RotaryWidthOfTheTransformersDialect) {
  Json json = least("minimax");
  json["head_dim"] = 16;
  json["rope_theta"] = 5000;  // files from before rope_parameters
  EXPECT_EQ(parse(json).rope_theta, 5000.0);
  EXPECT_EQ(parse(json).rotary_dim, 16U);
  json["rope_parameters"] = {
      {"rope_type", "default"}, {"rope_theta", 1e4}, {"partial_rotary_factor", 0.5}};
  EXPECT_EQ(parse(json).rope_theta, 1e4);
  EXPECT_EQ(parse(json).rotary_dim, 8U);
}

TEST(ModelConfigTest, NullKeyValueHeadsMeansOnePerHead) {
  Json json = least("minimax");
  json["num_key_value_heads"] = nullptr;
  EXPECT_EQ(parse(json).kv_heads, 16U);
}

TEST(ModelConfigTest, GenerationConfigNamesTheStopTokens) {
  const ScratchDirectory scratch;
  Json json = least("minimax");
  json["eos_token_id"] = 5;
  std::filesystem::create_directory(scratch.at("m"));
  write_bytes(scratch.at("m/config.json"), json.dump());
  write_bytes(scratch.at("m/generation_config.json"), R"({"eos_token_id": [7, 9, 7]})");
  const auto config = ModelConfig::load(scratch.at("m"));
  ASSERT_TRUE(config);
  EXPECT_EQ(config->eos_ids, (std::vector<std::uint32_t>{7, 9}));
  EXPECT_EQ(config->bos_id, 1U);
}

TEST(ModelConfigTest, EpsOfTheLightningNormCanBeOverridden) {
  Json json = least("minimax");
  EXPECT_EQ(parse(json).lightning_norm_eps, 1e-6F);
  json["lightning_norm_eps"] = 1e-5;
  EXPECT_EQ(parse(json).lightning_norm_eps, 1e-5F);
}

}  // namespace
}  // namespace fulgur::model
