// One layer of a worker on a device: answers have the reference's bits wherever their dispatches
// came from, lie in device memory, and own what the device reads until they are let go of.
#include <gtest/gtest.h>

#include <cstring>

#include "common/base/rng.hpp"
#include "services/expert/expert_layer.hpp"
#include "tests/support/device_backend.hpp"

namespace fulgur::expert {
namespace {

constexpr std::uint32_t kExperts = 3;
constexpr std::uint32_t kHidden = 24;
constexpr std::uint32_t kInner = 40;
constexpr std::size_t kRowBytes = kHidden * sizeof(float);

/// The same weights in a backend's memory.
void fill(WeightStore& store, kernels::Backend& backend) {
  for (std::uint32_t expert = 0; expert < kExperts; ++expert) {
    Rng rng(expert);
    std::vector<float> weights(3 * kInner * kHidden);
    for (float& value : weights) value = static_cast<float>(rng.uniform() - 0.5);
    const float* up = weights.data() + kInner * kHidden;
    store.insert({0, expert},
                 backend.pack_expert({weights.data(), Dtype::f32, kInner, kHidden},
                                     {up, Dtype::f32, kInner, kHidden},
                                     {up + kInner * kHidden, Dtype::f32, kHidden, kInner}));
  }
}

/// Random rows and routes from `seed`; grouped by expert or as they come.
Pending dispatch(std::uint64_t seed, bool grouped) {
  Rng rng(seed);
  auto rows = std::make_shared<std::vector<float>>(4 * kHidden);
  for (float& value : *rows) value = static_cast<float>(rng.uniform() - 0.5);
  Pending pending;
  wire::Dispatch& message = pending.dispatch;
  message.id = seed;
  message.rows = 4;
  message.hidden = kHidden;
  message.dtype = Dtype::f32;
  for (std::uint32_t i = 0; i < 6; ++i) {
    message.routes.push_back({static_cast<std::uint32_t>(rng.below(4)), 0,
                              static_cast<std::uint16_t>(grouped ? i / 2 : 2 - i % 3)});
  }
  const auto* bytes = reinterpret_cast<const std::byte*>(rows->data());
  message.activations = {rows, bytes, rows->size() * sizeof(float)};
  return pending;
}

class DeviceLayerTest : public testing::Test {
 protected:
  DeviceLayerTest() {
    fill(store_, *backend_);
    fill(host_store_, *reference_);
  }

  /// Its rows moved to device memory.
  Pending on_device(Pending pending) {
    wire::Frame& frame = pending.dispatch.activations;
    auto block = backend_->allocate(frame.size);
    backend_->upload(block.get(), frame.data, frame.size);
    const auto* data = block.get();
    frame = {std::move(block), data, frame.size, MemoryKind::device, nullptr};
    return pending;
  }

  std::vector<std::byte> bytes_of(const wire::Combine& combine) {
    std::vector<std::byte> bytes(combine.outputs.size);
    backend_->download(bytes.data(), combine.outputs.data, bytes.size());
    return bytes;
  }

  std::vector<std::byte> expected(Pending pending) {
    ExpertLayer layer(0, kHidden, host_store_, *reference_, clock_, host_pool_, {});
    EXPECT_FALSE(layer.push(std::move(pending)));
    const wire::Combine combine = layer.run().answers.at(0).combine;
    EXPECT_FALSE(wire::is_device(combine.outputs));
    return {combine.outputs.data, combine.outputs.data + combine.outputs.size};
  }

  ManualClock clock_;
  BufferPool host_pool_;
  std::unique_ptr<kernels::Backend> reference_ =
      kernels::make_reference_backend(kernels::Precision::f32);
  std::unique_ptr<kernels::Backend> backend_ =
      test::make_device_backend(kernels::Precision::f32).value();
  BufferPool pool_{std::size_t{1} << 20, test::device_blocks(*backend_)};
  WeightStore store_{1, kExperts};
  WeightStore host_store_{1, kExperts};
  std::shared_ptr<DeviceTime> time_ = std::make_shared<DeviceTime>();
  ExpertLayer layer_{0, kHidden, store_, *backend_, clock_, pool_, {}, time_};
};

TEST_F(DeviceLayerTest, LoneAnswersHaveTheReferencesBits) {
  for (const bool grouped : {true, false}) {
    for (const bool device : {true, false}) {
      Pending pending = dispatch(5, grouped);
      ASSERT_FALSE(layer_.push(device ? on_device(pending) : pending));
      const RunResult result = layer_.run();
      const wire::Combine& combine = result.answers.at(0).combine;
      EXPECT_TRUE(wire::is_device(combine.outputs));
      EXPECT_NE(combine.outputs.ready, nullptr);
      EXPECT_EQ(result.compute, 0);
      EXPECT_EQ(bytes_of(combine), expected(dispatch(5, grouped))) << grouped << device;
    }
  }
}

TEST_F(DeviceLayerTest, MergedRowsOfHostAndDeviceHaveTheReferencesBits) {
  for (std::uint64_t id = 0; id < 6; ++id) {
    Pending pending = dispatch(id, id % 3 == 0);
    ASSERT_FALSE(layer_.push(id % 2 == 0 ? on_device(pending) : pending));
  }
  const RunResult result = layer_.run();
  ASSERT_EQ(result.answers.size(), 6U);
  for (std::uint64_t id = 0; id < 6; ++id) {
    EXPECT_EQ(bytes_of(result.answers[id].combine), expected(dispatch(id, id % 3 == 0))) << id;
  }
}

TEST_F(DeviceLayerTest, AnswersLieInHostMemoryWhereThePoolHasNone) {
  std::size_t blocks = 0;
  const BlockSource device = test::device_blocks(*backend_);
  BufferPool pool(0, {device.kind,
                      [&](std::size_t bytes) {
                        return blocks == 0 ? nullptr : (--blocks, device.allocate(bytes));
                      },
                      device.free});
  ExpertLayer layer(0, kHidden, store_, *backend_, clock_, pool, {}, time_);
  for (blocks = 0; blocks <= 3;) {
    const std::size_t given = blocks;
    for (std::uint64_t id = 0; id < 3; ++id) {
      Pending pending = dispatch(id, true);
      ASSERT_FALSE(layer.push(id == 1 ? on_device(pending) : pending));
    }
    RunResult result = layer.run();
    ASSERT_EQ(result.answers.size(), 3U);
    EXPECT_EQ(result.done != nullptr, given > 0) << "all in host memory: it is over";
    for (std::uint64_t id = 0; id < 3; ++id) {
      const wire::Frame& outputs = result.answers[id].combine.outputs;
      EXPECT_EQ(wire::is_device(outputs), id < given);
      EXPECT_EQ(outputs.ready != nullptr, id < given);
      const auto bytes = wire::is_device(outputs)
                             ? bytes_of(result.answers[id].combine)
                             : std::vector(outputs.data, outputs.data + outputs.size);
      EXPECT_EQ(bytes, expected(dispatch(id, true))) << given;
    }
    result.answers.clear();
    blocks = given + 1;
  }
}

TEST_F(DeviceLayerTest, AnAnswerOwnsWhatTheDeviceReadsForIt) {
  Pending first = on_device(dispatch(1, true)), second = on_device(dispatch(2, true));
  const std::weak_ptr<const void> rows[] = {first.dispatch.activations.owner,
                                            second.dispatch.activations.owner};
  const std::weak_ptr<const kernels::Expert> weights = store_.find({0, 1});
  ASSERT_FALSE(layer_.push(std::move(first)));
  ASSERT_FALSE(layer_.push(std::move(second)));
  RunResult result = layer_.run();
  store_.retain(ReplicaSet(1, kExperts));  // the orchestrator takes all replicas away
  EXPECT_FALSE(weights.expired());
  result.answers[0].combine = {};
  EXPECT_TRUE(rows[0].expired());
  EXPECT_FALSE(rows[1].expired());
  EXPECT_FALSE(weights.expired());
  EXPECT_EQ(time_->total(), 0) << "an answer of the run is still on its way";
  result.answers[1].combine = {};
  EXPECT_TRUE(rows[1].expired());
  EXPECT_TRUE(weights.expired());
  EXPECT_GT(time_->total(), 0);
}

}  // namespace
}  // namespace fulgur::expert
