// Chains of kernels that begin before the one ahead of them has ended (kernels/cuda/overlap.hpp)
// against the same launches, each waited for: equal bits. The chains share every scratch buffer and
// differ in tokens, routes and inputs, so that a kernel that reads too early finds another chain's
// values, and one that writes too early spoils them. Skipped without a GPU.
#include <functional>

#include "common/base/rng.hpp"
#include "kernels/cuda/launch.hpp"
#include "kernels/cuda/layout.hpp"
#include "tests/unit/kernels/device_values.hpp"
#include "tests/unit/kernels/fixtures.hpp"

namespace fulgur::kernels::testing {
namespace {

constexpr int kExperts = 6, kSlots = 2, kHidden = 512, kInner = 384;
constexpr int kTokensMax = 700;

/// One layer's experts, packed for product() or product_fp8(), with the scratch of all chains.
class Layer {
 public:
  Layer(Rng& rng, bool fp8) : fp8_(fp8) {
    std::vector<const void*> gate_up, down;
    for (int e = 0; e < kExperts; ++e) {
      gate_up.push_back(pack(rng, true));
      down.push_back(pack(rng, false));
    }
    gate_up_ = std::make_unique<Device<const void*>>(gate_up);
    down_ = std::make_unique<Device<const void*>>(down);
  }

  /// sum [tokens, kHidden] = x + the weighted experts. ids, weights [tokens, kSlots].
  void run(const Device<Bf16>& x, const Device<std::uint16_t>& ids, const Device<float>& weights,
           int tokens, float* sum, cudaStream_t stream, const std::function<void()>& between) {
    const int routes = tokens * kSlots;
    const cuda::RouteGroups plan{counts_.get(), offsets_.get(),
                                 source_.get(), target_.get(),
                                 kExperts,      cuda::tiled_capacity(routes, kExperts)};
    const cuda::Experts layer{gate_up_->get(), down_->get(),   kHidden,
                              kInner,          tiled_x_.get(), tiled_inner_.get()};
    const auto gather = fp8_ ? cuda::gather_tiled_fp8 : cuda::gather_tiled;
    const auto product = fp8_ ? cuda::product_fp8 : cuda::product;
    EXPECT_EQ(cuda::plan_groups(ids.get(), tokens, kSlots, plan, stream), cudaSuccess);
    between();
    EXPECT_EQ(gather(x.get(), false, kHidden, plan, tiled_x_.get(), stream), cudaSuccess);
    between();
    EXPECT_EQ(cuda::expert_products(product, routes, plan, layer, out_.get(), stream), cudaSuccess);
    between();
    EXPECT_EQ(cuda::combine(zeros_.get(), tokens, kHidden, kSlots, weights.get(), out_.get(), 0, 1,
                            sum, stream),
              cudaSuccess);
    between();
  }

 private:
  static std::vector<Bf16> values(Rng& rng, std::size_t count) {
    return rounded(random_floats(rng, count, 0.2F));
  }
  const void* pack(Rng& rng, bool gate_up) {
    constexpr std::size_t kCount = std::size_t{kInner} * kHidden;
    const int rows = gate_up ? 2 * kInner : kHidden;
    const int cols = gate_up ? kHidden : kInner;
    packed_.push_back(std::make_unique<Device<std::byte>>(fp8_ ? cuda::packed8_bytes(rows, cols)
                                                               : std::size_t(rows) * cols * 2));
    std::byte* to = packed_.back()->get();
    for (int part = gate_up ? 1 : 0; part <= (gate_up ? 2 : 0); ++part) {
      const Device<Bf16> plain(values(rng, kCount));
      const int from = gate_up ? kInner : kHidden;
      EXPECT_EQ(
          fp8_ ? cuda::quantize_weight(plain.get(), false, from, cols, 0, part, rows, to, nullptr)
               : cuda::pack_weight(plain.get(), from, cols, 0, part, to, nullptr),
          cudaSuccess);
      EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    }
    return to;
  }

  inline static const auto kCapacity =
      static_cast<std::size_t>(cuda::tiled_capacity(kTokensMax * kSlots, kExperts));
  const bool fp8_;
  std::vector<std::unique_ptr<Device<std::byte>>> packed_;
  std::unique_ptr<Device<const void*>> gate_up_, down_;
  const Device<int> counts_{kExperts}, offsets_{kExperts}, source_{kCapacity}, target_{kCapacity};
  const Device<std::byte> tiled_x_{kCapacity * kHidden * 2}, tiled_inner_{kCapacity * kInner * 2};
  const Device<Bf16> out_{std::size_t{kTokensMax} * kSlots * kHidden};
  const Device<float> zeros_{std::vector<float>(std::size_t{kTokensMax} * kHidden, 0.0F)};
};

/// One chain's tokens; its results, waited for.
struct Chain {
  int tokens;
  Device<Bf16> x;
  Device<std::uint16_t> ids;
  Device<float> weights, sum;
  std::vector<float> expected;
};

std::unique_ptr<Chain> random_chain(Rng& rng) {
  // Every shape of tiles, in a random order: up to 16 routes, to 8 a group, to 128, beyond.
  constexpr int kTokens[] = {1, 1, 2, 8, 9, 20, 24, 90, 200, 383, 384, kTokensMax};
  const int tokens = kTokens[rng.below(std::size(kTokens))];
  const bool skewed = rng.below(2) == 0;  // hot experts beside others: tiles in two classes
  std::vector<std::uint16_t> ids;
  for (int t = 0; t < tokens; ++t) {
    const std::uint64_t first =
        skewed && rng.below(4) != 0 ? 0 : rng.below(static_cast<std::uint64_t>(kExperts));
    const std::uint64_t second = (first + 1 + rng.below(kExperts - 1)) % kExperts;
    ids.push_back(static_cast<std::uint16_t>(first));
    ids.push_back(static_cast<std::uint16_t>(second));
  }
  const auto count = static_cast<std::size_t>(tokens);
  return std::unique_ptr<Chain>(
      new Chain{tokens,
                Device<Bf16>(rounded(random_floats(rng, count * kHidden))),
                Device<std::uint16_t>(ids),
                Device<float>(random_floats(rng, count * kSlots)),
                Device<float>(count * kHidden),
                {}});
}

class CudaOverlap : public ::testing::TestWithParam<bool> {
 protected:
  static constexpr int kChains = 200;

  void SetUp() override {
    int devices = 0;
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices < 1) GTEST_SKIP() << "no GPU";
    ASSERT_EQ(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), cudaSuccess);
    layer_ = std::make_unique<Layer>(rng_, GetParam());
    cuda::overlap_launches(false);
    for (int n = 0; n < kChains; ++n) {
      chains_.push_back(random_chain(rng_));
      ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);  // the stream waits for no other's copies
      run(*chains_[n], [&] { ASSERT_EQ(cudaStreamSynchronize(stream_), cudaSuccess); });
      chains_[n]->expected = chains_[n]->sum.host();
      for (const float value : chains_[n]->expected) ASSERT_TRUE(std::isfinite(value));
    }
    cuda::overlap_launches(true);
    forget();
  }
  void TearDown() override {
    cuda::overlap_launches(true);
    if (stream_ != nullptr) cudaStreamDestroy(stream_);
  }

  void run(
      Chain& chain, const std::function<void()>& between = [] {}) {
    layer_->run(chain.x, chain.ids, chain.weights, chain.tokens, chain.sum.get(), stream_, between);
  }
  /// NaN where results go.
  void forget() {
    for (const auto& chain : chains_) {
      ASSERT_EQ(cudaMemset(chain->sum.get(), 0xff, chain->expected.size() * sizeof(float)),
                cudaSuccess);
    }
    ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  }
  void expect_results(const std::string& what) {
    ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    for (int n = 0; n < kChains; ++n) {
      const auto got = chains_[n]->sum.host();
      EXPECT_EQ(std::memcmp(got.data(), chains_[n]->expected.data(), got.size() * sizeof(float)), 0)
          << what << ", chain " << n << " of " << chains_[n]->tokens << " tokens";
    }
  }

  Rng rng_{2030};
  cudaStream_t stream_ = nullptr;
  std::unique_ptr<Layer> layer_;
  std::vector<std::unique_ptr<Chain>> chains_;
};

TEST_P(CudaOverlap, ChainsBackToBackAreThoseWaitedFor) {
  for (int round = 0; round < 4; ++round) {
    for (const auto& chain : chains_) run(*chain);
    expect_results("round " + std::to_string(round));
    forget();
  }
}

TEST_P(CudaOverlap, ChainsInAGraphAreThoseWaitedFor) {
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t ready = nullptr;
  ASSERT_EQ(cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal), cudaSuccess);
  for (const auto& chain : chains_) run(*chain);
  ASSERT_EQ(cudaStreamEndCapture(stream_, &graph), cudaSuccess);
  ASSERT_EQ(cudaGraphInstantiate(&ready, graph, 0), cudaSuccess);
  for (int replay = 0; replay < 4; ++replay) {
    // Twice, so that one graph's first kernels follow another's last.
    ASSERT_EQ(cudaGraphLaunch(ready, stream_), cudaSuccess);
    ASSERT_EQ(cudaGraphLaunch(ready, stream_), cudaSuccess);
    expect_results("replay " + std::to_string(replay));
    forget();
  }
  EXPECT_EQ(cudaGraphExecDestroy(ready), cudaSuccess);
  EXPECT_EQ(cudaGraphDestroy(graph), cudaSuccess);
}

INSTANTIATE_TEST_SUITE_P(Experts, CudaOverlap, ::testing::Bool(),
                         [](const auto& info) { return info.param ? "fp8" : "bf16"; });

/// Dense products one after the other between norms, as a decode step has them: an operand that the
/// kernel before wrote, weights that nobody does.
TEST(CudaOverlapDense, ProductsBetweenNormsAreThoseWaitedFor) {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices < 1) GTEST_SKIP() << "no GPU";
  constexpr int kRows = 16, kDim = 1024, kSteps = 200;
  Rng rng(2031);
  std::vector<std::unique_ptr<Device<std::byte>>> packed;
  for (int n = 0; n < 3; ++n) {
    const Device<Bf16> plain(rounded(random_floats(rng, std::size_t{kDim} * kDim, 0.05F)));
    packed.push_back(std::make_unique<Device<std::byte>>(std::size_t{kDim} * kDim * 2));
    ASSERT_EQ(cuda::pack_weight(plain.get(), kDim, kDim, 0, 0, packed.back()->get(), nullptr),
              cudaSuccess);
    ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  }
  constexpr int kCapacity = kRows + 256;
  const std::vector<float> start = random_floats(rng, std::size_t{kRows} * kDim);
  const Device<float> weight(std::vector<float>(kDim, 1.0F));
  const Device<std::byte> tiled(std::size_t{kCapacity} * kDim * 2);
  const Device<float> x(start.size()), y(start.size()), z(start.size());
  std::vector<std::vector<float>> results;
  for (const bool overlap : {false, true}) {
    cuda::overlap_launches(overlap);
    cudaMemcpy(x.get(), start.data(), start.size() * 4, cudaMemcpyHostToDevice);
    const auto wait = [&] {
      if (!overlap) {
        ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
      }
    };
    const auto multiply = [&](int rows, int n, float* out) {
      cuda::Product p{};
      p.x = tiled.get();
      p.capacity = kCapacity;
      p.cols = p.weight_rows = p.features = kDim;
      p.weight = packed[n]->get();
      p.rows = rows;
      p.groups = 1;
      p.store = cuda::Store::f32_rows;
      p.out = out;
      p.early = true;
      ASSERT_EQ(cuda::product(p, nullptr), cudaSuccess);
      wait();
    };
    const auto norm = [&](int rows, const float* a, const float* b, float* out) {
      ASSERT_EQ(cuda::residual_norm(a, b, 0.5F, 1.0F, weight.get(), 1e-5F, rows, kDim, out,
                                    tiled.get(), kCapacity, nullptr),
                cudaSuccess);
      wait();
    };
    for (int step = 0; step < kSteps; ++step) {
      const int rows = 1 + step % kRows;
      norm(rows, x.get(), nullptr, nullptr);
      multiply(rows, 0, y.get());
      multiply(rows, 1, z.get());
      norm(rows, y.get(), z.get(), y.get());
      multiply(rows, 2, z.get());
      norm(rows, y.get(), z.get(), x.get());
    }
    ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    results.push_back(x.host());
    for (const float value : results.back()) ASSERT_TRUE(std::isfinite(value));
  }
  cuda::overlap_launches(true);
  EXPECT_EQ(std::memcmp(results[0].data(), results[1].data(), results[0].size() * 4), 0);
}

}  // namespace
}  // namespace fulgur::kernels::testing
