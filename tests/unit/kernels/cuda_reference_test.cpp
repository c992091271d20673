// The CUDA kernels against the definition in kernels/reference, on small seeded inputs, and exact
// mode against itself: a row alone and in company, a sequence whole and cut. Skipped without a GPU.
// Tolerances: both sides round operands to bf16, but sum in another order, and the GPU also rounds
// q, lightning's weights and state operands and softmax's weights to bf16.
#include <cuda_runtime_api.h>

#include <numeric>

#include "bench/fp8/fp8_backend.hpp"
#include "common/base/e4m3.hpp"
#include "kernels/cuda/launch.hpp"
#include "kernels/cuda/layout.hpp"
#include "kernels/reference/scalar_math.hpp"
#include "kernels/reference/tables.hpp"
#include "tests/unit/kernels/device_values.hpp"
#include "tests/unit/kernels/fixtures.hpp"

namespace fulgur::kernels::testing {
namespace {

class CudaKernels : public ::testing::Test {
 protected:
  void SetUp() override {
    int devices = 0;
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices < 1) GTEST_SKIP() << "no GPU";
    reference_ = make_reference_backend(Precision::bf16);
  }

  /// Packed device copy of a bf16 weight, rows padded to cuda::kPackedRows.
  static std::unique_ptr<Device<Bf16>> pack(const HostWeight& weight) {
    const std::size_t padded = (weight.rows + 255) / 256 * 256;
    auto packed = std::make_unique<Device<Bf16>>(std::vector<Bf16>(padded * weight.cols));
    const Device<std::byte> plain(weight.bytes);
    EXPECT_EQ(cuda::pack_weight(plain.get(), static_cast<int>(weight.rows),
                                static_cast<int>(weight.cols), 0, 0, packed->get(), nullptr),
              cudaSuccess);
    cudaDeviceSynchronize();
    return packed;
  }

  std::unique_ptr<Backend> reference_;
  Rng rng_{2026};
};

TEST_F(CudaKernels, ProductMatchesReferenceWhateverTheRows) {
  constexpr std::size_t kCols = 192, kFeatures = 200;
  const HostWeight weight = random_weight(rng_, kFeatures, kCols, Dtype::bf16);
  const auto packed = pack(weight);
  const HostMatrix host = weight.matrix();
  const auto matrix = reference_->pack({&host, 1});
  const std::vector<float> all = random_floats(rng_, 300 * kCols);
  std::vector<float> expected(300 * kFeatures);
  reference_->matmul(all.data(), 300, *matrix, expected.data());
  const Device<float> x(all);
  std::vector<float> alone;
  for (const int rows : {1, 9, 40, 130, 300}) {
    const int capacity = (rows + 7) / 8 * 8 + 256;
    const Device<Bf16> tiled(capacity * kCols);
    ASSERT_EQ(cuda::tile_rows(x.get(), true, rows, kCols, capacity, tiled.get(), nullptr),
              cudaSuccess);
    const Device<float> out(rows * kFeatures);
    cuda::Product product{};
    product.x = tiled.get();
    product.capacity = capacity;
    product.cols = kCols;
    product.weight_rows = 256;
    product.weight = packed->get();
    product.rows = rows;
    product.groups = 1;
    product.store = cuda::Store::f32_rows;
    product.out = out.get();
    product.features = kFeatures;
    ASSERT_EQ(cuda::product(product, nullptr), cudaSuccess);
    const std::vector<float> got = out.host();
    EXPECT_LT(distance(got, {expected.begin(), expected.begin() + rows * kFeatures}), 1e-5);
    if (alone.empty()) alone.assign(got.begin(), got.begin() + kFeatures);
    EXPECT_EQ(std::memcmp(got.data(), alone.data(), kFeatures * 4), 0) << rows << " rows";
  }
}

TEST_F(CudaKernels, ExpertsMatchReference) {
  constexpr int kTokens = 37, kExperts = 5, kSlots = 2, kHidden = 256, kInner = 384;
  std::vector<HostWeight> gate, up, down;
  std::vector<std::unique_ptr<Expert>> experts;
  std::vector<std::unique_ptr<Device<Bf16>>> packed;
  std::vector<const void*> gate_up_table, down_table;
  for (int e = 0; e < kExperts; ++e) {
    gate.push_back(random_weight(rng_, kInner, kHidden, Dtype::bf16));
    up.push_back(random_weight(rng_, kInner, kHidden, Dtype::bf16));
    down.push_back(random_weight(rng_, kHidden, kInner, Dtype::bf16));
    experts.push_back(
        reference_->pack_expert(gate.back().matrix(), up.back().matrix(), down.back().matrix()));
    packed.push_back(std::make_unique<Device<Bf16>>(2 * kInner * kHidden));
    const Device<std::byte> g(gate.back().bytes), u(up.back().bytes);
    cuda::pack_weight(g.get(), kInner, kHidden, 0, 1, packed.back()->get(), nullptr);
    cuda::pack_weight(u.get(), kInner, kHidden, 0, 2, packed.back()->get(), nullptr);
    cudaDeviceSynchronize();
    gate_up_table.push_back(packed.back()->get());
    packed.push_back(pack(down.back()));
    down_table.push_back(packed.back()->get());
  }
  const std::vector<Bf16> x = rounded(random_floats(rng_, kTokens * kHidden));
  std::vector<std::uint16_t> ids;
  std::vector<std::vector<std::uint32_t>> rows(kExperts), routes(kExperts);
  for (int t = 0; t < kTokens; ++t) {
    const auto first = static_cast<std::uint16_t>(rng_.below(kExperts));
    for (const int e : {static_cast<int>(first), (first + 1) % kExperts}) {
      rows[e].push_back(t);
      routes[e].push_back(static_cast<std::uint32_t>(ids.size()));
      ids.push_back(static_cast<std::uint16_t>(e));
    }
  }
  std::vector<ExpertGroup> groups;
  std::vector<std::uint32_t> order;
  for (int e = 0; e < kExperts; ++e) {
    groups.push_back({experts[e].get(), rows[e], static_cast<std::uint32_t>(order.size())});
    order.insert(order.end(), routes[e].begin(), routes[e].end());
  }
  std::vector<Bf16> grouped(kTokens * kSlots * kHidden), expected(grouped.size());
  reference_->experts(reinterpret_cast<const std::byte*>(x.data()), Dtype::bf16, kHidden, groups,
                      reinterpret_cast<std::byte*>(grouped.data()), Dtype::bf16);
  for (std::size_t i = 0; i < order.size(); ++i) {
    std::copy_n(grouped.begin() + i * kHidden, kHidden, expected.begin() + order[i] * kHidden);
  }

  const int capacity = cuda::tiled_capacity(kTokens * kSlots, kExperts);
  const Device<int> counts(kExperts), offsets(kExperts), source(capacity), target(capacity);
  const Device<Bf16> device_x(x), tiled_x(capacity * kHidden), tiled_inner(capacity * kInner);
  const Device<Bf16> out(kTokens * kSlots * kHidden);
  const Device<std::uint16_t> device_ids(ids);
  const Device<const void*> gate_ups(gate_up_table), downs(down_table);
  const cuda::RouteGroups plan{counts.get(), offsets.get(), source.get(),
                               target.get(), kExperts,      capacity};
  ASSERT_EQ(cuda::plan_groups(device_ids.get(), kTokens, kSlots, plan, nullptr), cudaSuccess);
  const cuda::Experts layer{gate_ups.get(), downs.get(),   kHidden,
                            kInner,         tiled_x.get(), tiled_inner.get()};
  ASSERT_EQ(cuda::experts(device_x.get(), false, kTokens * kSlots, plan, layer, out.get(), nullptr),
            cudaSuccess);
  EXPECT_LT(distance(widened(out.host()), widened(expected)), 5e-3);
}

TEST_F(CudaKernels, TheDeviceRoundsToE4m3AsTheDefinition) {
  // Row r of blocks of 128: the largest value 448, so that the scale is 1, then every code's value,
  // the middles between codes and their neighbours, of both signs.
  std::vector<float> probes;
  for (unsigned bits = 0; bits < 0x7eU; ++bits) {
    const float low = to_float(E4m3{static_cast<std::uint8_t>(bits)});
    const float middle = (low + to_float(E4m3{static_cast<std::uint8_t>(bits + 1)})) / 2;
    for (const float value :
         {low, middle, std::nextafter(middle, 0.0F), std::nextafter(middle, 1e9F)}) {
      probes.push_back(value);
      probes.push_back(-value);
    }
  }
  constexpr int kBlocks = 8, kCols = kBlocks * 128, kCapacity = 8;
  std::vector<float> x(kCols, 448.0F);
  for (std::size_t i = 0; i < probes.size(); ++i) x[i / 127 * 128 + 1 + i % 127] = probes[i];
  ASSERT_LE(probes.size(), std::size_t{kBlocks} * 127);
  std::vector<int> source(kCapacity, -1);
  source[5] = 0;
  const Device<float> device_x(x);
  const Device<int> device_source(source);
  const Device<std::byte> tiled(cuda::tiled8_bytes(kCapacity, kCols));
  cuda::RouteGroups plan{};
  plan.source = device_source.get();
  plan.capacity = kCapacity;
  ASSERT_EQ(cuda::gather_tiled_fp8(device_x.get(), true, kCols, plan, tiled.get(), nullptr),
            cudaSuccess);
  const std::vector<std::byte> got = tiled.host();
  for (std::size_t c = 0; c < kCols; ++c) {
    ASSERT_EQ(std::to_integer<unsigned>(got[cuda::tiled8_byte(5, c, kCapacity)]),
              to_e4m3(x[c]).bits)
        << x[c];
  }
  for (int block = 0; block < kBlocks; ++block) {
    float scale;
    std::memcpy(&scale, got.data() + cuda::tiled8_scale_byte(5, block, kCols, kCapacity), 4);
    EXPECT_EQ(scale, 1.0F);
  }
}

TEST_F(CudaKernels, QuantizedWeightsAreTheDefinitions) {
  constexpr std::size_t kRows = 256, kCols = 384;
  for (const int interleave : {0, 1, 2}) {
    const HostWeight weight = random_weight(rng_, kRows, kCols, Dtype::f32);
    const std::size_t packed_rows = interleave == 0 ? kRows : 2 * kRows;
    const Device<std::byte> plain(weight.bytes), packed(cuda::packed8_bytes(packed_rows, kCols));
    for (const int first : {0, 128}) {  // in two pieces, as slabs of a checkpoint come
      ASSERT_EQ(
          cuda::quantize_weight(plain.get() + first * kCols * 4, true, 128, kCols, first,
                                interleave, static_cast<int>(packed_rows), packed.get(), nullptr),
          cudaSuccess);
    }
    const std::vector<std::byte> got = packed.host();
    std::vector<float> tops(kRows / 128 * (kCols / 128));
    for (std::size_t i = 0; i < kRows * kCols; ++i) {
      float& top = tops[i / kCols / 128 * (kCols / 128) + i % kCols / 128];
      top = std::max(top, std::abs(static_cast<float>(weight.values[i])));
    }
    for (std::size_t r = 0; r < kRows; ++r) {
      for (std::size_t c = 0; c < kCols; ++c) {
        const E4m3Scale scale = e4m3_scale(tops[r / 128 * (kCols / 128) + c / 128]);
        const std::size_t to = interleave == 0 ? r : cuda::gate8_row(r) + (interleave == 2 ? 8 : 0);
        const float value = static_cast<float>(weight.values[r * kCols + c]);
        ASSERT_EQ(std::to_integer<unsigned>(got[cuda::packed8_byte(to, c, kCols)]),
                  to_e4m3(value * scale.inverse).bits)
            << interleave << ": " << r << ", " << c;
        float stored_scale;
        std::memcpy(&stored_scale, got.data() + cuda::packed8_scale_byte(to, c, packed_rows, kCols),
                    4);
        ASSERT_EQ(stored_scale, scale.scale) << interleave << ": " << r << ", " << c;
      }
    }
  }
}

/// The layer at kernel level: groups by plan_groups(), one of them empty, against the CPU.
TEST_F(CudaKernels, Fp8ExpertsMatchTheSameArithmeticOnTheCpu) {
  constexpr int kTokens = 90, kExperts = 4, kHidden = 256, kInner = 384, kUsed = 3;
  bench::Fp8Backend slow(make_reference_backend(Precision::bf16),
                         bench::Fp8Parts::weights_and_activations);
  std::vector<std::unique_ptr<Expert>> experts;
  std::vector<std::unique_ptr<Device<std::byte>>> packed;
  std::vector<const void*> gate_up_table, down_table;
  for (int e = 0; e < kExperts; ++e) {
    const HostWeight gate = random_weight(rng_, kInner, kHidden, Dtype::bf16);
    const HostWeight up = random_weight(rng_, kInner, kHidden, Dtype::bf16);
    const HostWeight down = random_weight(rng_, kHidden, kInner, Dtype::bf16);
    experts.push_back(slow.pack_expert(gate.matrix(), up.matrix(), down.matrix()));
    const Device<std::byte> g(gate.bytes), u(up.bytes), d(down.bytes);
    packed.push_back(std::make_unique<Device<std::byte>>(cuda::packed8_bytes(2 * kInner, kHidden)));
    gate_up_table.push_back(packed.back()->get());
    packed.push_back(std::make_unique<Device<std::byte>>(cuda::packed8_bytes(kHidden, kInner)));
    down_table.push_back(packed.back()->get());
    auto* both = const_cast<void*>(gate_up_table.back());
    EXPECT_EQ(
        cuda::quantize_weight(g.get(), false, kInner, kHidden, 0, 1, 2 * kInner, both, nullptr),
        cudaSuccess);
    EXPECT_EQ(
        cuda::quantize_weight(u.get(), false, kInner, kHidden, 0, 2, 2 * kInner, both, nullptr),
        cudaSuccess);
    EXPECT_EQ(cuda::quantize_weight(d.get(), false, kHidden, kInner, 0, 0, kHidden,
                                    packed.back()->get(), nullptr),
              cudaSuccess);
    cudaDeviceSynchronize();
  }
  const std::vector<Bf16> x = rounded(random_floats(rng_, kTokens * kHidden));
  std::vector<std::uint16_t> ids;
  std::vector<std::vector<std::uint32_t>> rows(kExperts);
  for (std::uint32_t t = 0; t < kTokens; ++t) {
    ids.push_back(static_cast<std::uint16_t>(rng_.below(kUsed)));
    rows[ids.back()].push_back(t);
  }
  std::vector<Bf16> expected(kTokens * kHidden);
  for (int e = 0; e < kUsed; ++e) {  // top-1: a token's route is its own number
    std::vector<Bf16> some(rows[e].size() * kHidden);
    const ExpertGroup group[] = {{experts[e].get(), rows[e], 0}};
    slow.experts(reinterpret_cast<const std::byte*>(x.data()), Dtype::bf16, kHidden, group,
                 reinterpret_cast<std::byte*>(some.data()), Dtype::bf16);
    for (std::size_t i = 0; i < rows[e].size(); ++i) {
      std::copy_n(some.begin() + i * kHidden, kHidden, expected.begin() + rows[e][i] * kHidden);
    }
  }
  const int capacity = cuda::tiled_capacity(kTokens, kExperts);
  const Device<int> counts(kExperts), offsets(kExperts), source(capacity), target(capacity);
  const Device<Bf16> device_x(x), out(kTokens * kHidden);
  const Device<std::byte> tiled_x(cuda::tiled8_bytes(capacity, kHidden)),
      tiled_inner(cuda::tiled8_bytes(capacity, kInner));
  const Device<std::uint16_t> device_ids(ids);
  const Device<const void*> gate_ups(gate_up_table), downs(down_table);
  const cuda::RouteGroups plan{counts.get(), offsets.get(), source.get(),
                               target.get(), kExperts,      capacity};
  ASSERT_EQ(cuda::plan_groups(device_ids.get(), kTokens, 1, plan, nullptr), cudaSuccess);
  const cuda::Experts layer{gate_ups.get(), downs.get(),   kHidden,
                            kInner,         tiled_x.get(), tiled_inner.get()};
  ASSERT_EQ(cuda::experts_fp8(device_x.get(), false, kTokens, plan, layer, out.get(), nullptr),
            cudaSuccess);
  EXPECT_LT(distance(widened(out.host()), widened(expected)), 2e-2);
}

TEST_F(CudaKernels, LightningMatchesReferenceAndItselfCut) {
  constexpr int kHeads = 3, kTokens = 150;
  LightningShape shape{kHeads, cuda::kHeadDim, {0.9F, 0.05F, 0.004F}};
  const std::vector<float> raw = random_floats(rng_, kTokens * kHeads * 3 * cuda::kHeadDim);
  std::vector<float> expected(kTokens * kHeads * cuda::kHeadDim);
  const auto slot = reference_->allocate(reference_->lightning_slot_bytes(shape));
  const LightningSegment segment{0, kTokens, 0, slot.get()};
  reference_->lightning(shape, raw.data(), {&segment, 1}, expected.data());

  std::vector<Bf16> activated;
  for (const float value : raw) activated.push_back(to_bf16(silu_fixed(value)));
  const Device<Bf16> qkv(activated);
  const Device<float> powers(decay_powers(shape.decay));
  const auto run = [&](const std::vector<int>& cuts) {
    const Device<std::byte> state(kHeads * cuda::kHeadSlotBytes);
    const Device<Bf16> out(kTokens * kHeads * cuda::kHeadDim);
    int at = 0;
    for (const int rows : cuts) {
      const Device<cuda::LightningRows> rows_of_call(
          std::vector<cuda::LightningRows>{{at, rows, at, state.get()}});
      const auto call = rows == 1 ? cuda::lightning_decode : cuda::lightning_prefill;
      EXPECT_EQ(call(qkv.get(), rows_of_call.get(), 1, kHeads, powers.get(), out.get(), nullptr),
                cudaSuccess);
      cudaDeviceSynchronize();
      at += rows;
    }
    EXPECT_EQ(at, kTokens);
    return widened(out.host());
  };
  const std::vector<float> whole = run({kTokens});
  EXPECT_LT(distance(whole, expected), 6e-3);
  EXPECT_EQ(run({1, 1, 61, 2, 63, 1, 21}), whole);
  EXPECT_EQ(run(std::vector<int>(kTokens, 1)), whole);
}

TEST_F(CudaKernels, SoftmaxMatchesReference) {
  constexpr int kHeads = 16, kKvHeads = 2, kTokens = 140, kPages = 3;
  const SoftmaxShape shape{kHeads, kKvHeads, cuda::kHeadDim, 64, 1e7};
  constexpr int kRow = (kHeads + 2 * kKvHeads) * cuda::kHeadDim;
  const std::vector<Bf16> qkv = rounded(random_floats(rng_, kTokens * kRow));
  const std::vector<std::uint32_t> pages = {2, 0, 1};
  const auto pool = reference_->allocate(kPages * reference_->softmax_page_bytes(shape));
  const SoftmaxSegment segment{0, kTokens, 0, pages.data()};
  std::vector<float> expected(kTokens * kHeads * cuda::kHeadDim);
  reference_->softmax(shape, widened(qkv).data(), {&segment, 1}, pool.get(), expected.data());

  // Every token as a sequence of its own length over the same pages.
  std::vector<int> table, lengths(kTokens), positions(kTokens), sequences(kTokens);
  for (int t = 0; t < kTokens; ++t) table.insert(table.end(), pages.begin(), pages.end());
  std::iota(lengths.begin(), lengths.end(), 1);
  std::iota(positions.begin(), positions.end(), 0);
  std::iota(sequences.begin(), sequences.end(), 0);
  const Device<Bf16> device_qkv(qkv), device_pages(kPages * kKvHeads * 2 * 64 * cuda::kHeadDim);
  const Device<Bf16> q(kTokens * kHeads * cuda::kHeadDim), out(kTokens * kHeads * cuda::kHeadDim);
  const Device<int> device_table(table), device_lengths(lengths), device_positions(positions);
  const Device<int> device_sequences(sequences);
  const Device<float> frequencies(rotary_frequencies(shape.rope_theta, shape.rotary_dim));
  ASSERT_EQ(cuda::rotary_cache(device_qkv.get(), kTokens, kHeads, kKvHeads, 64, frequencies.get(),
                               device_sequences.get(), device_positions.get(), device_table.get(),
                               kPages, device_pages.get(), q.get(), nullptr),
            cudaSuccess);
  const Device<std::byte> scratch(cuda::softmax_scratch_bytes(kTokens, kHeads, kTokens));
  cuda::SoftmaxDecode call{};
  call.q = q.get();
  call.pages = device_pages.get();
  call.page_table = device_table.get();
  call.table_stride = kPages;
  call.lengths = device_lengths.get();
  call.lengths_max = kTokens;
  call.count = kTokens;
  call.heads = kHeads;
  call.kv_heads = kKvHeads;
  call.partial = reinterpret_cast<float*>(scratch.get());
  call.out = out.get();
  ASSERT_EQ(cuda::softmax_decode(call, nullptr), cudaSuccess);
  EXPECT_LT(distance(widened(out.host()), expected), 6e-3);
}

TEST_F(CudaKernels, RowKernelsMatchReference) {
  constexpr int kRows = 19, kDim = 320, kExperts = 12, kSlots = 2;
  const std::vector<float> x = random_floats(rng_, kRows * kDim),
                           weight = random_floats(rng_, kDim);
  const Device<float> device_x(x), device_weight(weight), normed(kRows * kDim);
  std::vector<float> expected(kRows * kDim);
  reference_->rms_norm(x.data(), weight.data(), 1e-5F, kRows, kDim, expected.data());
  ASSERT_EQ(cuda::residual_norm(device_x.get(), nullptr, 1, 0, device_weight.get(), 1e-5F, kRows,
                                kDim, normed.get(), nullptr, 8, nullptr),
            cudaSuccess);
  EXPECT_LT(distance(normed.host(), expected), 1e-6);

  const HostWeight router = random_weight(rng_, kExperts, kDim, Dtype::f32);
  std::vector<std::uint16_t> ids(kRows * kSlots);
  std::vector<float> weights(kRows * kSlots);
  reference_->route(x.data(), kRows, *reference_->pack_router(router.matrix()), kSlots, ids.data(),
                    weights.data());
  const Device<std::byte> device_router(router.bytes);
  const Device<std::uint16_t> chosen(kRows * kSlots);
  const Device<float> chosen_weights(kRows * kSlots);
  ASSERT_EQ(cuda::route(device_x.get(), kRows, kDim, reinterpret_cast<float*>(device_router.get()),
                        kExperts, kSlots, chosen.get(), chosen_weights.get(), nullptr),
            cudaSuccess);
  EXPECT_EQ(chosen.host(), ids);
  EXPECT_LT(distance(chosen_weights.host(), weights), 1e-5);

  const std::vector<Bf16> outputs = rounded(random_floats(rng_, kRows * kSlots * kDim));
  std::vector<const std::byte*> pointers;
  for (int r = 0; r < kRows * kSlots; ++r) {
    pointers.push_back(reinterpret_cast<const std::byte*>(outputs.data() + r * kDim));
  }
  reference_->combine(x.data(), kRows, kDim, kSlots, weights.data(), pointers, Dtype::bf16, 3.5F,
                      0.7F, expected.data());
  const Device<Bf16> device_outputs(outputs);
  const Device<float> device_weights(weights), combined(kRows * kDim);
  ASSERT_EQ(cuda::combine(device_x.get(), kRows, kDim, kSlots, device_weights.get(),
                          device_outputs.get(), 3.5F, 0.7F, combined.get(), nullptr),
            cudaSuccess);
  EXPECT_LT(distance(combined.host(), expected), 1e-6);
}

}  // namespace
}  // namespace fulgur::kernels::testing
