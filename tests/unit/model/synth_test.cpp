// Synthetic checkpoints: every preset opens, equal seeds give equal files, nothing is overwritten.
#include "common/model/synth.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <iterator>
#include <map>
#include <memory>

#include "common/base/bf16.hpp"
#include "common/model/checkpoint.hpp"
#include "common/model/normal_table.hpp"
#include "tests/unit/model/scratch.hpp"

namespace fulgur::model {
namespace {

namespace fs = std::filesystem;

/// file name -> bytes of a directory.
std::map<std::string, std::string> contents(const std::string& directory) {
  std::map<std::string, std::string> out;
  for (const auto& entry : fs::directory_iterator(directory)) {
    out[entry.path().filename()] = read_bytes(entry.path());
  }
  return out;
}

std::shared_ptr<const Checkpoint> make(const SynthOptions& options) {
  const auto written = synthesize(options);
  EXPECT_TRUE(written) << written.status().to_string();
  auto opened = Checkpoint::open(options.directory);
  EXPECT_TRUE(opened) << opened.status().to_string();
  return opened ? *opened : nullptr;
}

TEST(SynthTest, EveryPresetButTheBenchmarkOpens) {
  const ScratchDirectory scratch;
  for (const SynthPreset& preset : synth_presets()) {
    if (preset.name == "bench-1b") continue;  // 2.6 GB
    const auto model = make({.preset = preset.name, .directory = scratch.at(preset.name)});
    ASSERT_TRUE(model) << preset.name;
    const ModelConfig& config = model->config();
    EXPECT_EQ(config.total_params(), preset.config.total_params());
    EXPECT_EQ(config.attention, preset.config.attention);
    EXPECT_EQ(config.lightning_residual.alpha, preset.config.lightning_residual.alpha);
    EXPECT_EQ(config.rms_eps, preset.config.rms_eps);
    EXPECT_EQ(config.postnorm, preset.config.postnorm);
    EXPECT_EQ(config.rotary_dim, preset.config.rotary_dim);
    const auto layer = model->layer(0);
    ASSERT_TRUE(layer);
    EXPECT_EQ(layer->router.dtype, Dtype::f32);
    EXPECT_TRUE(model->expert(config.layers - 1, config.experts - 1));
    EXPECT_TRUE(model->lm_head());
  }
}

TEST(SynthTest, BenchmarkShape) {
  const SynthPreset& preset = synth_presets().front();
  ASSERT_EQ(preset.name, "bench-1b");
  const ModelConfig& config = preset.config;
  EXPECT_EQ(config.layers, 16U);
  EXPECT_EQ(config.hidden, 1024U);
  EXPECT_EQ(config.vocab, 8192U);
  EXPECT_EQ(config.heads, 8U);
  EXPECT_EQ(config.head_dim, 128U);
  EXPECT_EQ(config.kv_heads, 2U);
  EXPECT_EQ(config.experts, 16U);
  EXPECT_EQ(config.experts_per_token, 2U);
  EXPECT_EQ(config.expert_inner, 1536U);
  ASSERT_EQ(config.attention.size(), 16U);
  for (std::size_t layer = 0; layer < config.attention.size(); ++layer) {
    const bool softmax = layer == 7 || layer == 15;
    EXPECT_EQ(config.attention[layer], softmax ? AttentionKind::softmax : AttentionKind::lightning)
        << "layer " << layer;
  }
  EXPECT_FLOAT_EQ(config.mlp_residual.alpha, std::pow(32.0F, 0.25F));
}

TEST(SynthTest, EqualSeedsGiveEqualFilesForAnyThreads) {
  const ScratchDirectory scratch;
  const auto a = make({.preset = "odd", .directory = scratch.at("a"), .seed = 7, .threads = 1});
  const auto b = make({.preset = "odd", .directory = scratch.at("b"), .seed = 7, .threads = 3});
  const auto c = make({.preset = "odd", .directory = scratch.at("c"), .seed = 8});
  ASSERT_TRUE(a && b && c);
  EXPECT_EQ(contents(scratch.at("a")), contents(scratch.at("b")));
  EXPECT_EQ(a->fingerprint(), b->fingerprint());
  EXPECT_NE(a->fingerprint(), c->fingerprint());
}

TEST(SynthTest, FilesAreTheSameOnEveryMachine) {
  const ScratchDirectory scratch;
  const auto model = make({.preset = "tiny-random", .directory = scratch.at("m"), .seed = 1});
  ASSERT_TRUE(model);
  EXPECT_EQ(model->fingerprint(), 0x285fa3ecedb3a4d2ULL);
}

TEST(SynthTest, FingerprintFollowsMeaningNotPlace) {
  const ScratchDirectory scratch;
  const std::string place = scratch.at("m");
  const auto model = make({.preset = "tiny-random", .directory = place});
  ASSERT_TRUE(model);
  fs::copy(place, scratch.at("copy"));
  EXPECT_EQ((*Checkpoint::open(scratch.at("copy")))->fingerprint(), model->fingerprint());
  edit_json(place + "/config.json", [](auto& json) { json["unrelated"] = 1; });
  EXPECT_EQ((*Checkpoint::open(place))->fingerprint(), model->fingerprint());
  edit_json(place + "/config.json", [](auto& json) { json["rope_theta"] = 12345; });
  EXPECT_NE((*Checkpoint::open(place))->fingerprint(), model->fingerprint());
}

TEST(SynthTest, WeightsAreScaledAndDistinct) {
  const ScratchDirectory scratch;
  const auto model = make({.preset = "wide-experts", .directory = scratch.at("m")});
  ASSERT_TRUE(model);
  const auto first = model->expert(0, 0);
  const auto second = model->expert(0, 1);
  ASSERT_TRUE(first && second);
  const auto* a = reinterpret_cast<const Bf16*>(first->gate.data);
  const auto* b = reinterpret_cast<const Bf16*>(second->gate.data);
  const std::uint64_t count = first->gate.elements();
  double squares = 0;
  double product = 0;
  for (std::uint64_t i = 0; i < count; ++i) {
    squares += double{to_float(a[i])} * to_float(a[i]);
    product += double{to_float(a[i])} * to_float(b[i]);
  }
  EXPECT_NEAR(squares / static_cast<double>(count) * 64, 1.0, 0.05);  // deviation 1 / sqrt(64)
  EXPECT_NEAR(product / squares, 0.0, 0.05);
}

TEST(SynthTest, NormalTableIsNormal) {
  const NormalTable& table = NormalTable::instance();
  double squares = 0;
  double fourths = 0;
  for (std::size_t i = 0; i < NormalTable::kSize; ++i) {
    const double x = table[static_cast<std::uint16_t>(i)];
    if (i > 0) {
      ASSERT_GT(x, table[static_cast<std::uint16_t>(i - 1)]);
    }
    squares += x * x;
    fourths += x * x * x * x;
  }
  EXPECT_NEAR(squares / NormalTable::kSize, 1.0, 1e-3);
  EXPECT_NEAR(fourths / NormalTable::kSize, 3.0, 1e-2);
  EXPECT_NEAR(std::erfc(-table[60000] / std::sqrt(2.0)) / 2, 60000.5 / 65536, 1e-9);
  EXPECT_NEAR(table[65535], 4.3246, 1e-3);
}

TEST(SynthTest, RefusesWhatItMustNotDo) {
  const ScratchDirectory scratch;
  EXPECT_EQ(synthesize({.preset = "huge", .directory = scratch.at("x")}).status().message(),
            "preset \"huge\" is unknown; expected one of bench-1b, tiny-random, odd, wide-experts, "
            "prenorm-tied, m1-small");
  fs::create_directory(scratch.at("full"));
  write_bytes(scratch.at("full/notes.txt"), "keep me");
  const auto refused = synthesize({.preset = "odd", .directory = scratch.at("full")});
  EXPECT_EQ(refused.status().code(), Code::failed_precondition);
  EXPECT_EQ(read_bytes(scratch.at("full/notes.txt")), "keep me");
  SynthPreset giant = synth_presets().front();
  giant.config.vocab = 1U << 24;
  giant.config.hidden = 1U << 18;
  const auto no_space = synthesize(giant, {.preset = {}, .directory = scratch.at("giant")});
  EXPECT_EQ(no_space.status().code(), Code::resource_exhausted);
  EXPECT_FALSE(fs::exists(scratch.at("giant")));
}

TEST(SynthTest, AnEmptyDirectoryIsFilledAndNothingIsLeftBeside) {
  const ScratchDirectory scratch;
  fs::create_directory(scratch.at("m"));
  std::uint64_t last = 0;
  std::uint64_t total = 0;
  ASSERT_TRUE(make({.preset = "odd",
                    .directory = scratch.at("m") + "/",
                    .threads = 1,
                    .progress = [&](std::uint64_t done, std::uint64_t all) {
                      EXPECT_GT(done, last);
                      last = done;
                      total = all;
                    }}));
  EXPECT_EQ(last, total);
  EXPECT_EQ(std::distance(fs::directory_iterator(scratch.at("")), fs::directory_iterator()), 1);
}

}  // namespace
}  // namespace fulgur::model
