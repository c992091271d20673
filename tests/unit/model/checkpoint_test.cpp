// Loading good checkpoints: both layouts give the same tensors, only what is asked for is mapped.
#include "common/model/checkpoint.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <fstream>

#include "common/model/synth.hpp"
#include "tests/support/golden.hpp"
#include "tests/unit/model/scratch.hpp"

namespace fulgur::model {
namespace {

const std::string kSource = FULGUR_SOURCE_DIR;
const std::string kSmall = kSource + "/tests/golden/models/m1-random-small";
const std::string kFused = kSource + "/tests/golden/models/m1-random-small-fused";
const std::string kTiny = kSource + "/models/fulgur-tiny";

std::shared_ptr<const Checkpoint> open(const std::string& directory) {
  auto checkpoint = Checkpoint::open(directory);
  EXPECT_TRUE(checkpoint) << checkpoint.status().to_string();
  return checkpoint ? *checkpoint : nullptr;
}

void expect_same(const Result<Tensor>& a, const Result<Tensor>& b) {
  ASSERT_TRUE(a) << a.status().to_string();
  ASSERT_TRUE(b) << b.status().to_string();
  EXPECT_EQ(a->dtype, b->dtype) << a->name;
  EXPECT_EQ(a->shape, b->shape) << a->name;
  ASSERT_EQ(a->bytes, b->bytes) << a->name;
  EXPECT_EQ(std::memcmp(a->data, b->data, a->bytes), 0) << a->name;
}

TEST(CheckpointTest, BothLayoutsGiveTheSameTensors) {
  const auto split = open(kSmall);
  const auto fused = open(kFused);
  ASSERT_TRUE(split && fused);
  expect_same(split->embedding(), fused->embedding());
  expect_same(split->final_norm(), fused->final_norm());
  expect_same(split->lm_head(), fused->lm_head());
  for (std::uint32_t i = 0; i < split->config().layers; ++i) {
    const auto a = split->layer(i);
    const auto b = fused->layer(i);
    ASSERT_TRUE(a && b);
    EXPECT_EQ(a->kind, b->kind);
    expect_same(a->norm_in, b->norm_in);
    expect_same(a->norm_post, b->norm_post);
    expect_same(a->router, b->router);
    if (a->kind == AttentionKind::lightning) {
      expect_same(a->lightning.qkv, b->lightning.qkv);
      expect_same(a->lightning.gate, b->lightning.gate);
      expect_same(a->lightning.norm, b->lightning.norm);
      expect_same(a->lightning.out, b->lightning.out);
    } else {
      expect_same(a->softmax.q, b->softmax.q);
      expect_same(a->softmax.k, b->softmax.k);
      expect_same(a->softmax.v, b->softmax.v);
      expect_same(a->softmax.o, b->softmax.o);
    }
    for (std::uint32_t e = 0; e < split->config().experts; ++e) {
      const auto x = split->expert(i, e);
      const auto y = fused->expert(i, e);
      ASSERT_TRUE(x && y);
      expect_same(x->gate, y->gate);
      expect_same(x->up, y->up);
      expect_same(x->down, y->down);
    }
  }
  EXPECT_EQ(split->expert_bytes(), 3U * 32 * 128 * 2);
  EXPECT_EQ(fused->expert_bytes(), split->expert_bytes());
}

TEST(CheckpointTest, LoadsTheBundledModel) {
  const auto tiny = open(kTiny);
  ASSERT_TRUE(tiny);
  const ModelConfig& config = tiny->config();
  EXPECT_EQ(config.layers, 8U);
  EXPECT_EQ(config.rotary_dim, 64U);
  EXPECT_EQ(config.eos_ids, (std::vector<std::uint32_t>{1, 3}));
  EXPECT_EQ(config.bos_id, 0U);
  const auto expert = tiny->expert(7, 15);
  ASSERT_TRUE(expert);
  EXPECT_EQ(expert->down.shape, (std::vector<std::uint64_t>{256, 64}));
}

TEST(CheckpointTest, TensorsOutliveTheCheckpoint) {
  auto checkpoint = open(kFused);
  ASSERT_TRUE(checkpoint);
  auto expert = checkpoint->expert(3, 5);
  ASSERT_TRUE(expert);
  const Tensor up = expert->up;
  checkpoint.reset();
  expert = Status(Code::internal, "released");
  expect_same(open(kSmall)->expert(3, 5)->up, up);
}

/// Bytes of this process's mappings of files below `directory`.
std::uint64_t mapped_bytes(const std::string& directory) {
  std::ifstream maps("/proc/self/maps");
  std::uint64_t total = 0;
  for (std::string line; std::getline(maps, line);) {
    if (line.find(directory) == std::string::npos) continue;
    const std::size_t dash = line.find('-');
    total += std::stoull(line.substr(dash + 1), nullptr, 16) - std::stoull(line, nullptr, 16);
  }
  return total;
}

TEST(CheckpointTest, OnlyWhatIsAskedForIsMapped) {
  const ScratchDirectory scratch;
  const std::string directory = scratch.at("wide");
  ASSERT_TRUE(synthesize({.preset = "wide-experts", .directory = directory}));
  const auto model = open(directory);
  ASSERT_TRUE(model);
  EXPECT_EQ(mapped_bytes(directory), 0U);
  std::vector<Tensor> attention = {*model->embedding(), *model->final_norm(), *model->lm_head()};
  std::vector<LayerTensors> layers;
  for (std::uint32_t i = 0; i < model->config().layers; ++i) layers.push_back(*model->layer(i));
  const std::uint64_t page = 4096;
  const std::uint64_t tensors = 3 + model->config().layers * 7;
  const std::uint64_t params = model->config().total_params() -
                               std::uint64_t{model->config().layers} * model->config().experts *
                                   model->config().expert_params();
  EXPECT_LE(mapped_bytes(directory), params * 4 + tensors * 2 * page);
  layers.clear();
  attention.clear();
  EXPECT_EQ(mapped_bytes(directory), 0U);
  const auto expert = model->expert(1, 9);
  ASSERT_TRUE(expert);
  EXPECT_LE(mapped_bytes(directory), model->expert_bytes() + 3 * 2 * page);
}

TEST(CheckpointTest, MixedFloatDtypesAreAccepted) {
  const ScratchDirectory scratch;
  const std::string directory = scratch.at("m");
  ASSERT_TRUE(synthesize({.preset = "tiny-random", .directory = directory}));
  edit_header(directory + "/model-00000-of-00001.safetensors",
              [](auto& json) { json["model.norm.weight"]["dtype"] = "F16"; });
  const auto model = open(directory);
  ASSERT_TRUE(model);
  EXPECT_EQ(model->final_norm()->dtype, Dtype::f16);
  EXPECT_EQ(model->layer(0)->router.dtype, Dtype::f32);
  EXPECT_EQ(model->layer(0)->norm_in.dtype, Dtype::bf16);
}

TEST(CheckpointTest, TiedHeadIsTheEmbedding) {
  const ScratchDirectory scratch;
  ASSERT_TRUE(synthesize({.preset = "prenorm-tied", .directory = scratch.at("m")}));
  const auto model = open(scratch.at("m"));
  ASSERT_TRUE(model);
  expect_same(model->embedding(), model->lm_head());
}

TEST(GoldenTest, ReadsArraysAndGenerations) {
  const auto arrays =
      test::read_golden_arrays(kSource + "/tests/golden/synth-odd/logits.safetensors");
  EXPECT_EQ(test::golden_cases(arrays).size(), 6U);
  const test::GoldenArray& ids = arrays.at("n17.ids");
  EXPECT_EQ(ids.shape, std::vector<std::uint64_t>{17});
  EXPECT_EQ(ids.ints.size(), 17U);
  EXPECT_EQ(arrays.at("n300.logits_tail").floats.size(), 4U * 251);
  EXPECT_EQ(arrays.at("n300.experts").shape, (std::vector<std::uint64_t>{5, 300, 3}));
  const auto generations =
      test::read_golden_generations(kSource + "/tests/golden/fulgur-tiny/generation.json");
  ASSERT_FALSE(generations.empty());
  EXPECT_FALSE(generations[0].text.empty());
  EXPECT_EQ(generations[0].prompt_ids[0], 0U);
  EXPECT_GT(generations[0].min_gap, 0.0);
}

}  // namespace
}  // namespace fulgur::model
