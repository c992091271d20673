// One layer of a worker: merged dispatches give the bits of lone ones, refusals say why, the queue is
// bounded, and weights outlive a retire while a dispatch waits for them.
#include "services/expert/expert_layer.hpp"

#include <gtest/gtest.h>

#include <cstring>

#include "common/base/rng.hpp"

namespace fulgur::expert {
namespace {

constexpr std::uint32_t kLayer = 3;
constexpr std::uint32_t kLayers = 4;
constexpr std::uint32_t kExperts = 4;
constexpr std::uint32_t kHidden = 24;
constexpr std::uint32_t kInner = 40;

std::shared_ptr<const kernels::Expert> random_expert(kernels::Backend& backend, std::uint64_t seed) {
  Rng rng(seed);
  const auto fill = [&](std::size_t count) {
    std::vector<float> values(count);
    for (float& value : values) value = static_cast<float>(rng.uniform() - 0.5);
    return values;
  };
  const auto gate = fill(kInner * kHidden);
  const auto up = fill(kInner * kHidden);
  const auto down = fill(kHidden * kInner);
  return backend.pack_expert({gate.data(), Dtype::f32, kInner, kHidden},
                             {up.data(), Dtype::f32, kInner, kHidden},
                             {down.data(), Dtype::f32, kHidden, kInner});
}

class ExpertLayerTest : public testing::Test {
 protected:
  ExpertLayerTest() {
    for (std::uint32_t expert = 0; expert + 1 < kExperts; ++expert)  // the last one is not held
      store_.insert({kLayer, expert}, random_expert(*backend_, expert));
  }

  ExpertLayer make(ExpertLayerLimits limits = {}) {
    return ExpertLayer(kLayer, kHidden, store_, *backend_, clock_, pool_, limits);
  }

  /// `rows` random activation rows and `routes` to held experts, both from `seed`.
  Pending dispatch(std::uint64_t id, std::uint64_t seed, std::uint32_t rows = 3,
                   std::size_t routes = 5, Dtype dtype = Dtype::f32) {
    Rng rng(seed);
    auto memory = std::make_shared<std::vector<std::byte>>(rows * kHidden * size_of(dtype));
    if (dtype == Dtype::f32) {
      auto* const values = reinterpret_cast<float*>(memory->data());
      for (std::size_t i = 0; i < rows * kHidden; ++i)
        values[i] = static_cast<float>(rng.uniform() - 0.5);
    }
    Pending pending;
    pending.link = 10 + id;
    pending.trace.low = 100 + id;
    wire::Dispatch& message = pending.dispatch;
    message.id = id;
    message.layer = kLayer;
    message.rows = rows;
    message.hidden = kHidden;
    message.dtype = dtype;
    for (std::size_t i = 0; i < routes; ++i) {
      wire::Route route;
      route.row = static_cast<decltype(route.row)>(rng.below(rows));
      route.expert = static_cast<decltype(route.expert)>(rng.below(kExperts - 1));
      message.routes.push_back(route);
    }
    message.activations = {memory, memory->data(), memory->size()};
    return pending;
  }

  static std::vector<std::byte> bytes_of(const wire::Combine& combine) {
    return {combine.outputs.data, combine.outputs.data + combine.outputs.size};
  }

  ManualClock clock_;
  BufferPool pool_;
  std::unique_ptr<kernels::Backend> backend_ = kernels::make_reference_backend(kernels::Precision::f32);
  WeightStore store_{kLayers, kExperts};
};

TEST_F(ExpertLayerTest, MergedDispatchesGiveTheBitsOfLoneOnes) {
  std::vector<std::vector<std::byte>> alone;
  ExpertLayer layer = make();
  for (std::uint64_t id = 0; id < 6; ++id) {
    ASSERT_FALSE(layer.push(dispatch(id, id)));
    alone.push_back(bytes_of(layer.run().answers.at(0).combine));
  }
  for (std::uint64_t id = 0; id < 6; ++id) ASSERT_FALSE(layer.push(dispatch(id, id)));
  const RunResult merged = layer.run();
  EXPECT_TRUE(layer.idle());
  EXPECT_EQ(merged.routed_rows, 30U);
  ASSERT_EQ(merged.answers.size(), 6U);
  for (std::uint64_t id = 0; id < 6; ++id) {
    const auto& answer = merged.answers[id];
    EXPECT_EQ(answer.link, 10 + id);
    EXPECT_EQ(answer.trace.low, 100 + id);
    EXPECT_EQ(answer.combine.id, id);
    EXPECT_EQ(answer.combine.routes, 5U);
    EXPECT_EQ(bytes_of(answer.combine), alone[id]) << id;
  }
}

TEST_F(ExpertLayerTest, AnswersAreInTheOrderOfRoutes) {
  ExpertLayer layer = make();
  Pending forward = dispatch(1, 7, 1, 0);
  for (const unsigned expert : {2U, 0U, 1U}) {
    wire::Route route;
    route.expert = static_cast<std::uint16_t>(expert);
    forward.dispatch.routes.push_back(route);
  }
  Pending backward = dispatch(2, 7, 1, 0);
  backward.dispatch.routes.assign(forward.dispatch.routes.rbegin(), forward.dispatch.routes.rend());
  ASSERT_FALSE(layer.push(std::move(forward)));
  const auto first = bytes_of(layer.run().answers[0].combine);
  ASSERT_FALSE(layer.push(std::move(backward)));
  const auto second = bytes_of(layer.run().answers[0].combine);
  const std::size_t row = kHidden * sizeof(float);
  for (std::size_t i = 0; i < 3; ++i)
    EXPECT_EQ(std::memcmp(first.data() + i * row, second.data() + (2 - i) * row, row), 0) << i;
}

TEST_F(ExpertLayerTest, RefusesWithTheReason) {
  ExpertLayer layer = make({.queue_max = 1, .batch_rows_max = 8});
  Pending missing = dispatch(1, 1);
  missing.dispatch.routes[2].expert = kExperts - 1;
  EXPECT_EQ(layer.push(std::move(missing)), wire::NackReason::not_held);
  Pending outside = dispatch(1, 1);
  outside.dispatch.routes[0].expert = kExperts;
  EXPECT_EQ(layer.push(std::move(outside)), wire::NackReason::invalid);
  Pending narrow = dispatch(1, 1);
  narrow.dispatch.hidden = kHidden / 2;
  EXPECT_EQ(layer.push(std::move(narrow)), wire::NackReason::invalid);
  Pending elsewhere = dispatch(1, 1);
  elsewhere.dispatch.layer = kLayer - 1;
  EXPECT_EQ(layer.push(std::move(elsewhere)), wire::NackReason::invalid);
  EXPECT_EQ(layer.push(dispatch(1, 1, 3, 0)), wire::NackReason::invalid);
  EXPECT_FALSE(layer.push(dispatch(1, 1)));
  EXPECT_EQ(layer.push(dispatch(2, 2)), wire::NackReason::busy);
  EXPECT_EQ(layer.queued(), 1U);
}

TEST_F(ExpertLayerTest, ARunIsBoundedAndOfOneType) {
  ExpertLayer layer = make({.queue_max = 8, .batch_rows_max = 10});
  for (std::uint64_t id = 0; id < 3; ++id) ASSERT_FALSE(layer.push(dispatch(id, id)));  // 5 each
  EXPECT_EQ(layer.run().answers.size(), 2U);
  ASSERT_FALSE(layer.push(dispatch(3, 3, 3, 5, Dtype::bf16)));
  EXPECT_EQ(layer.run().answers.size(), 1U) << "float32 and bf16 rows do not merge";
  EXPECT_EQ(layer.run().answers.at(0).combine.dtype, Dtype::bf16);
  ASSERT_FALSE(layer.push(dispatch(4, 4, 3, 64)));
  EXPECT_EQ(layer.run().answers.size(), 1U) << "one dispatch beyond the bound still runs, alone";
}

TEST_F(ExpertLayerTest, WeightsStayForWhatIsQueued) {
  ExpertLayer layer = make();
  ASSERT_FALSE(layer.push(dispatch(1, 1)));
  const auto expected = bytes_of(layer.run().answers[0].combine);
  ASSERT_FALSE(layer.push(dispatch(1, 1)));
  store_.retain(ReplicaSet(kLayers, kExperts));
  EXPECT_EQ(store_.held_bytes(), 0U);
  EXPECT_EQ(bytes_of(layer.run().answers[0].combine), expected);
  EXPECT_EQ(layer.push(dispatch(1, 1)), wire::NackReason::not_held);
}

TEST_F(ExpertLayerTest, CountsRoutedRowsAndTime) {
  ExpertLayer layer = make();
  ASSERT_FALSE(layer.push(dispatch(1, 1)));
  ASSERT_FALSE(layer.push(dispatch(2, 2)));
  std::vector<std::uint64_t> tokens(kExperts);
  layer.take_expert_tokens(tokens);
  layer.take_expert_tokens(tokens);
  EXPECT_EQ(tokens[0] + tokens[1] + tokens[2], 10U);
  EXPECT_EQ(tokens[3], 0U);
  clock_.advance(70 * kMicrosecond);
  EXPECT_EQ(layer.run().answers[0].combine.queue_us, 70U);
}

TEST(ReplicaSet, TravelsAsABitmap) {
  ReplicaSet set(3, 50);
  set.insert({0, 0});
  set.insert({1, 49});
  set.insert({2, 14});
  EXPECT_EQ(set.list(), (std::vector<ReplicaId>{{0, 0}, {1, 49}, {2, 14}}));
  EXPECT_FALSE(ReplicaSet::from_bitmap(3, 50, {1, 2}).is_ok()) << "150 bits need 3 words";
  const auto back = ReplicaSet::from_bitmap(3, 50, {1, 0, 0});
  ASSERT_TRUE(back.is_ok());
  EXPECT_TRUE(back->contains({0, 0}));
  EXPECT_FALSE(back->contains({1, 49}));
}

TEST_F(ExpertLayerTest, TheStoreKnowsWhatItHolds) {
  EXPECT_EQ(store_.held().size(), kExperts - 1);
  const std::uint64_t one = store_.held_bytes() / (kExperts - 1);
  ReplicaSet keep(kLayers, kExperts);
  keep.insert({kLayer, 1});
  keep.insert({0, 0});  // never held
  store_.retain(keep);
  EXPECT_EQ(store_.held(), (std::vector<ReplicaId>{{kLayer, 1}}));
  EXPECT_EQ(store_.held_bytes(), one);
  EXPECT_EQ(store_.find({kLayer, 0}), nullptr);
  EXPECT_EQ(store_.find({kLayers, 0}), nullptr);
  store_.insert({kLayer, 1}, random_expert(*backend_, 9));
  EXPECT_EQ(store_.held_bytes(), one) << "replaced, not added";
}

}  // namespace
}  // namespace fulgur::expert
