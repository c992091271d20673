// Loading good checkpoints: both layouts give the same tensors, only what is asked for is mapped.
#include "common/model/checkpoint.hpp"

#include <gtest/gtest.h>

#include <cstring>

#include "tests/support/golden.hpp"

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
  EXPECT_NE(up.data[0], up.data[1]);
}

}  // namespace
}  // namespace fulgur::model
