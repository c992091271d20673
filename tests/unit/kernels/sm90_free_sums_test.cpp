// Kernels with free sums: as close to the definition as with fixed ones, the same bits each time
// and out of a graph, flags down behind every launch; and fixed sums untouched by any of it.
// Skipped without a GPU. Tolerances as in cuda_reference_test.cpp.
#include <cuda_runtime_api.h>

#include <functional>
#include <numeric>

#include "kernels/cuda/launch.hpp"
#include "kernels/cuda/layout.hpp"
#include "kernels/cuda/shares.hpp"
#include "tests/unit/kernels/device_values.hpp"
#include "tests/unit/kernels/fixtures.hpp"
#include "tests/unit/kernels/hosted_backend.hpp"

namespace fulgur::kernels::testing {
namespace {

using cuda::Store;

float silu_of(double x) { return static_cast<float>(x / (1 + std::exp(-x))); }

/// bf16 values in (-0.25, 0.25), quickly.
std::vector<Bf16> some_values(Rng& rng, std::size_t count) {
  std::vector<Bf16> values(count);
  for (Bf16& value : values) {
    value = to_bf16(static_cast<float>(static_cast<std::int64_t>(rng.next())) * 0x1.0p-65F);
  }
  return values;
}

class FreeSums : public ::testing::Test {
 protected:
  void SetUp() override {
    int devices = 0;
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices < 1) GTEST_SKIP() << "no GPU";
    partials_ =
        std::make_unique<Device<std::byte>>(std::vector<std::byte>(cuda::product_partials_bytes()));
  }
  void expect_flags_down() const {
    const std::vector<std::byte> all = partials_->host();
    EXPECT_TRUE(std::all_of(all.begin(), all.begin() + cuda::kFlagBytes,
                            [](std::byte b) { return b == std::byte{0}; }));
  }
  /// Whether anything has been handed over since the memory was made.
  bool handed_over() const {
    const std::vector<std::byte> all = partials_->host();
    return std::any_of(all.begin() + cuda::kFlagBytes, all.end(),
                       [](std::byte b) { return b != std::byte{0}; });
  }
  /// What `launches` leave when a graph of them is replayed three times.
  static void in_graph(const std::function<void(cudaStream_t)>& launches) {
    cudaStream_t stream = nullptr;
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t exec = nullptr;
    ASSERT_EQ(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), cudaSuccess);
    ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    ASSERT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), cudaSuccess);
    launches(stream);
    ASSERT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
    ASSERT_EQ(cudaGraphInstantiate(&exec, graph, 0), cudaSuccess);
    for (int i = 0; i < 3; ++i) ASSERT_EQ(cudaGraphLaunch(exec, stream), cudaSuccess);
    ASSERT_EQ(cudaStreamSynchronize(stream), cudaSuccess);
    cudaGraphExecDestroy(exec);
    cudaGraphDestroy(graph);
    cudaStreamDestroy(stream);
  }

  std::unique_ptr<Device<std::byte>> partials_;
  Rng rng_{2031};
};

// --- Products ------------------------------------------------------------------------------------

class FreeProduct : public FreeSums {
 protected:
  static constexpr int kRowsMax = 2048;

  /// A weight [features, cols], for SwiGLU of two halves interleaved; rows to multiply by it.
  void make(int features, int cols, bool gate_up) {
    features_ = features, cols_ = cols, gate_up_ = gate_up;
    weight_ = some_values(rng_, static_cast<std::size_t>(features) * cols);
    x_ = some_values(rng_, static_cast<std::size_t>(kRowsMax) * cols);
    weight_rows_ = (features + 255) / 256 * 256;
    packed_ = std::make_unique<Device<Bf16>>(
        std::vector<Bf16>(static_cast<std::size_t>(weight_rows_) * cols));
    const Device<Bf16> plain(weight_);
    if (gate_up) {
      const int half = features / 2;
      const Bf16* up = plain.get() + static_cast<std::size_t>(half) * cols;
      ASSERT_EQ(cuda::pack_weight(plain.get(), half, cols, 0, 1, packed_->get(), nullptr),
                cudaSuccess);
      ASSERT_EQ(cuda::pack_weight(up, half, cols, 0, 2, packed_->get(), nullptr), cudaSuccess);
    } else {
      ASSERT_EQ(cuda::pack_weight(plain.get(), features, cols, 0, 0, packed_->get(), nullptr),
                cudaSuccess);
    }
    ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  }
  int columns(Store store) const {
    return store == Store::swiglu_tiled ? features_ / 2 : features_;
  }

  /// The product of the first rows, as rows of float32.
  std::vector<float> run(int rows, Store store, Sums sums, void* partials, bool graph = false) {
    const int capacity = (rows + 7) / 8 * 8 + 256;
    const int columns = this->columns(store);
    const Device<Bf16> x({x_.begin(), x_.begin() + static_cast<std::ptrdiff_t>(rows) * cols_});
    const Device<Bf16> tiled(static_cast<std::size_t>(capacity) * cols_);
    EXPECT_EQ(cuda::tile_rows(x.get(), false, rows, cols_, capacity, tiled.get(), nullptr),
              cudaSuccess);
    const std::size_t values = static_cast<std::size_t>(capacity) * columns;
    const Device<std::byte> out(values * (store == Store::f32_rows ? 4 : 2));
    cuda::Product p{};
    p.x = tiled.get();
    p.capacity = capacity;
    p.cols = cols_;
    p.weight_rows = weight_rows_;
    p.weight = packed_->get();
    p.rows = rows;
    p.groups = 1;
    p.store = store;
    p.out = out.get();
    p.features = columns;
    p.sums = sums;
    p.partials = partials;
    if (graph) {
      in_graph([&](cudaStream_t stream) { EXPECT_EQ(cuda::product(p, stream), cudaSuccess); });
    } else {
      EXPECT_EQ(cuda::product(p, nullptr), cudaSuccess);
    }
    EXPECT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    const std::vector<std::byte> bytes = out.host();
    std::vector<float> result(static_cast<std::size_t>(rows) * columns);
    for (int r = 0; r < rows; ++r) {
      for (int f = 0; f < columns; ++f) {
        const std::size_t at = static_cast<std::size_t>(r) * columns + f;
        if (store == Store::f32_rows) {
          std::memcpy(&result[at], bytes.data() + at * 4, 4);
        } else {
          const std::size_t from =
              store == Store::swiglu_tiled ? cuda::tiled_byte(r, f, capacity) : at * 2;
          Bf16 value;
          std::memcpy(&value, bytes.data() + from, 2);
          result[at] = to_float(value);
        }
      }
    }
    // Nothing beside: what lies behind the rows is as it was.
    if (store != Store::swiglu_tiled) {
      const std::size_t used = result.size() * (store == Store::f32_rows ? 4 : 2);
      EXPECT_TRUE(std::all_of(bytes.begin() + static_cast<std::ptrdiff_t>(used), bytes.end(),
                              [](std::byte b) { return b == std::byte{0xff}; }));
    }
    return result;
  }

  double dot(int row, int feature) const {
    double sum = 0;
    for (int c = 0; c < cols_; ++c) {
      sum += static_cast<double>(to_float(x_[static_cast<std::size_t>(row) * cols_ + c])) *
             to_float(weight_[static_cast<std::size_t>(feature) * cols_ + c]);
    }
    return sum;
  }
  float expected(int row, int feature, Store store) const {
    if (store == Store::swiglu_tiled) {
      return silu_of(dot(row, feature)) * static_cast<float>(dot(row, features_ / 2 + feature));
    }
    const double sum = dot(row, feature);
    return store == Store::silu_bf16_rows ? silu_of(sum) : static_cast<float>(sum);
  }
  /// How far some rows are from float64.
  double off(const std::vector<float>& got, int rows, Store store) const {
    const auto columns = static_cast<std::size_t>(this->columns(store));
    std::vector<float> some, want;
    for (const int row : {0, 1, 2, 15, 63, 99, 200, 255, 299, 1290, 2047}) {
      if (row >= rows) continue;
      for (std::size_t f = 0; f < columns; ++f) {
        some.push_back(got[static_cast<std::size_t>(row) * columns + f]);
        want.push_back(expected(row, static_cast<int>(f), store));
      }
    }
    return distance(some, want);
  }

  int features_ = 0, cols_ = 0, weight_rows_ = 0;
  bool gate_up_ = false;
  std::vector<Bf16> weight_, x_;
  std::unique_ptr<Device<Bf16>> packed_;
};

constexpr int kRowCounts[] = {1, 3, 16, 64, 100, 256, 300, 2048};

double limit_of(Store store) {
  if (store == Store::f32_rows) return 1e-5;
  return store == Store::swiglu_tiled ? 4e-3 : 3e-3;
}

/// Fewer tiles than multiprocessors, features that end within a tile; all stores.
TEST_F(FreeProduct, IsAsCloseToTheDefinitionAsFixedSums) {
  struct Case {
    int features, cols;
    std::vector<Store> stores;
  };
  const Case cases[] = {
      {1002, 2048, {Store::f32_rows, Store::bf16_rows, Store::silu_bf16_rows}},
      {331, 4160, {Store::f32_rows}},  // 65 stages
      {1536, 2048, {Store::swiglu_tiled}},
  };
  for (const Case& c : cases) {
    ASSERT_NO_FATAL_FAILURE(make(c.features, c.cols, c.stores[0] == Store::swiglu_tiled));
    for (const Store store : c.stores) {
      for (const int rows : kRowCounts) {
        SCOPED_TRACE(::testing::Message() << rows << " rows, " << c.features << " x " << c.cols
                                          << ", store " << static_cast<int>(store));
        const auto fixed = run(rows, store, Sums::fixed, nullptr);
        const auto first = run(rows, store, Sums::free, partials_->get());
        EXPECT_LT(off(fixed, rows, store), limit_of(store));
        EXPECT_LT(off(first, rows, store), limit_of(store));
        EXPECT_LT(distance(first, fixed), limit_of(store));
        EXPECT_TRUE(same_bits(run(rows, store, Sums::free, partials_->get()), first));
        expect_flags_down();
      }
    }
  }
  EXPECT_TRUE(handed_over());  // else nothing was tested
}

/// Rounds of tiles and a cut behind them.
TEST_F(FreeProduct, TilesBehindWholeRounds) {
  for (const bool gate_up : {false, true}) {
    ASSERT_NO_FATAL_FAILURE(make(24576, 2048, gate_up));
    const Store store = gate_up ? Store::swiglu_tiled : Store::f32_rows;
    for (const int rows : {5, 130, 256, 700}) {
      SCOPED_TRACE(::testing::Message() << rows << " rows, store " << static_cast<int>(store));
      const auto fixed = run(rows, store, Sums::fixed, nullptr);
      const auto first = run(rows, store, Sums::free, partials_->get());
      EXPECT_LT(distance(first, fixed), limit_of(store));
      EXPECT_TRUE(same_bits(run(rows, store, Sums::free, partials_->get()), first));
      expect_flags_down();
    }
  }
  EXPECT_TRUE(handed_over());
}

TEST_F(FreeProduct, AGraphGivesTheSameBitsEachTime) {
  ASSERT_NO_FATAL_FAILURE(make(1002, 2048, false));
  for (const int rows : {1, 16, 256}) {
    const auto once = run(rows, Store::f32_rows, Sums::free, partials_->get());
    EXPECT_TRUE(same_bits(run(rows, Store::f32_rows, Sums::free, partials_->get(), true), once));
    expect_flags_down();
  }
}

TEST_F(FreeProduct, FixedSumsDoNotTouchTheMemory) {
  ASSERT_NO_FATAL_FAILURE(make(1002, 2048, false));
  for (const int rows : {1, 16, 256}) {
    EXPECT_TRUE(same_bits(run(rows, Store::f32_rows, Sums::fixed, partials_->get()),
                          run(rows, Store::f32_rows, Sums::fixed, nullptr)));
  }
  expect_flags_down();
  EXPECT_FALSE(handed_over());
}

TEST_F(FreeProduct, WantsMemory) {
  ASSERT_NO_FATAL_FAILURE(make(256, 64, false));
  cuda::Product p{};
  p.cols = 64, p.weight_rows = 256, p.rows = 1, p.groups = 1, p.capacity = 8;
  p.sums = Sums::free;
  EXPECT_EQ(cuda::product(p, nullptr), cudaErrorInvalidValue);
}

/// Experts whose rows only the device knows, two of them hit, or all: beside fixed sums, and again.
TEST_F(FreeSums, Experts) {
  constexpr int kExperts = 6, kHidden = 2048, kInner = 1536, kSlots = 2;
  std::vector<std::unique_ptr<Device<Bf16>>> packed;
  std::vector<const void*> gate_up, down;
  for (int e = 0; e < kExperts; ++e) {
    for (const bool first : {true, false}) {
      packed.push_back(std::make_unique<Device<Bf16>>(
          some_values(rng_, static_cast<std::size_t>(first ? 2 : 1) * kInner * kHidden)));
      (first ? gate_up : down).push_back(packed.back()->get());
    }
  }
  const Device<const void*> gate_ups(gate_up), downs(down);
  for (const int tokens : {1, 6, 90, 700}) {
    SCOPED_TRACE(::testing::Message() << tokens << " tokens");
    const int routes = tokens * kSlots;
    std::vector<std::uint16_t> ids;
    for (int t = 0; t < tokens; ++t) {
      ids.push_back(static_cast<std::uint16_t>(t % kExperts));
      ids.push_back(static_cast<std::uint16_t>((t + 1) % kExperts));
    }
    const int capacity = cuda::tiled_capacity(routes, kExperts);
    const Device<std::uint16_t> device_ids(ids);
    const Device<int> counts(kExperts), offsets(kExperts), source(capacity), target(capacity);
    const cuda::RouteGroups plan{counts.get(), offsets.get(), source.get(),
                                 target.get(), kExperts,      capacity};
    ASSERT_EQ(cuda::plan_groups(device_ids.get(), tokens, kSlots, plan, nullptr), cudaSuccess);
    const Device<Bf16> x(some_values(rng_, static_cast<std::size_t>(tokens) * kHidden));
    const auto compute = [&](Sums sums) {
      const Device<Bf16> tiled_x(static_cast<std::size_t>(capacity) * kHidden),
          tiled_inner(static_cast<std::size_t>(capacity) * kInner),
          out(static_cast<std::size_t>(routes) * kHidden);
      const cuda::Experts layer{gate_ups.get(), downs.get(),       kHidden, kInner,
                                tiled_x.get(),  tiled_inner.get(), sums,    partials_->get()};
      EXPECT_EQ(cuda::experts(x.get(), false, routes, plan, layer, out.get(), nullptr),
                cudaSuccess);
      return widened(out.host());
    };
    const auto fixed = compute(Sums::fixed), first = compute(Sums::free);
    EXPECT_LT(distance(first, fixed), 6e-3);
    EXPECT_TRUE(same_bits(compute(Sums::free), first));
    expect_flags_down();
  }
  EXPECT_TRUE(handed_over());
}

// --- Softmax decode ------------------------------------------------------------------------------

/// Sequences of any length over pages in random order, NaN behind every end.
class FreeSoftmax : public FreeSums {
 protected:
  static constexpr int kKvHeads = 2, kHeads = 16;
  static constexpr std::size_t kPageValues = std::size_t{2} * 64 * cuda::kHeadDim;

  void make(const std::vector<int>& lengths) {
    lengths_ = lengths;
    stride_ = (*std::max_element(lengths.begin(), lengths.end()) + 63) / 64;
    table_.assign(lengths.size() * static_cast<std::size_t>(stride_), 0);
    int pages = 0;
    for (const int length : lengths) pages += (length + 63) / 64;
    std::vector<int> order(static_cast<std::size_t>(pages));
    std::iota(order.begin(), order.end(), 0);
    for (std::size_t i = order.size(); i-- > 1;) std::swap(order[i], order[rng_.below(i + 1)]);
    pool_ = some_values(rng_, static_cast<std::size_t>(pages) * kKvHeads * kPageValues);
    for (Bf16& value : pool_) value = to_bf16(4 * to_float(value));
    q_ = some_values(rng_, lengths.size() * kHeads * cuda::kHeadDim);
    for (Bf16& value : q_) value = to_bf16(8 * to_float(value));
    std::size_t next = 0;
    for (std::size_t s = 0; s < lengths.size(); ++s) {
      for (int p = 0; p < (lengths[s] + 63) / 64; ++p) {
        table_[s * static_cast<std::size_t>(stride_) + p] = order[next++];
      }
      for (int t = lengths[s]; t % 64 != 0; ++t) {
        for (int head = 0; head < kKvHeads; ++head) {
          for (int d = 0; d < cuda::kHeadDim; ++d) {
            pool_[index(s, head, 0, t, d)] = pool_[index(s, head, 1, t, d)] = Bf16{0xffff};
          }
        }
      }
    }
    device_pool_ = std::make_unique<Device<Bf16>>(pool_);
  }
  /// Of a key (0) or value (1) in the pool.
  std::size_t index(std::size_t sequence, int head, int which, int token, int d) const {
    const int page = table_[sequence * static_cast<std::size_t>(stride_) + token / 64];
    const std::size_t piece = (static_cast<std::size_t>(page) * kKvHeads + head) * 2 + which;
    return piece * kPageValues / 2 + cuda::page_chunk_byte(token % 64, d / 8) / 2 + d % 8;
  }
  std::vector<float> run(Sums sums, bool graph = false, int times = 1) {
    const int count = static_cast<int>(lengths_.size());
    const int longest = *std::max_element(lengths_.begin(), lengths_.end());
    const Device<Bf16> q(q_), out(q_.size());
    const Device<int> table(table_), lengths(lengths_);
    const Device<std::byte> scratch(cuda::softmax_scratch_bytes(count, kHeads, longest, sums));
    cuda::SoftmaxDecode call{};
    call.q = q.get();
    call.pages = device_pool_->get();
    call.page_table = table.get();
    call.table_stride = stride_;
    call.lengths = lengths.get();
    call.lengths_max = longest;
    call.count = count;
    call.heads = kHeads;
    call.kv_heads = kKvHeads;
    call.partial = reinterpret_cast<float*>(scratch.get());
    call.out = out.get();
    call.sums = sums;
    const auto launch = [&](cudaStream_t stream) {
      for (int i = 0; i < times; ++i) EXPECT_EQ(cuda::softmax_decode(call, stream), cudaSuccess);
    };
    if (graph) {
      in_graph(launch);
    } else {
      launch(nullptr);
    }
    return widened(out.host());
  }
  /// One head of one sequence in float64.
  std::vector<float> expected(std::size_t sequence, int head) const {
    const std::size_t row = (sequence * kHeads + static_cast<std::size_t>(head)) * cuda::kHeadDim;
    std::vector<double> scores, out(cuda::kHeadDim);
    double most = -1e300, sum = 0;
    for (int t = 0; t < lengths_[sequence]; ++t) {
      double score = 0;
      for (int d = 0; d < cuda::kHeadDim; ++d) {
        score += static_cast<double>(to_float(q_[row + d])) *
                 to_float(pool_[index(sequence, head / 8, 0, t, d)]);
      }
      scores.push_back(score / std::sqrt(128.0));
      most = std::max(most, scores.back());
    }
    for (int t = 0; t < lengths_[sequence]; ++t) {
      const double weight = std::exp(scores[static_cast<std::size_t>(t)] - most);
      sum += weight;
      for (int d = 0; d < cuda::kHeadDim; ++d) {
        out[static_cast<std::size_t>(d)] +=
            weight * to_float(pool_[index(sequence, head / 8, 1, t, d)]);
      }
    }
    std::vector<float> result;
    for (const double value : out) result.push_back(static_cast<float>(value / sum));
    return result;
  }
  void check() {
    const auto fixed = run(Sums::fixed), first = run(Sums::free);
    std::vector<float> some, some_fixed, want;
    for (std::size_t s = 0; s < lengths_.size(); ++s) {
      const int head = static_cast<int>(s * 5 % kHeads);
      const auto right = expected(s, head);
      want.insert(want.end(), right.begin(), right.end());
      const auto at = static_cast<std::ptrdiff_t>((s * kHeads + head) * cuda::kHeadDim);
      some.insert(some.end(), first.begin() + at, first.begin() + at + cuda::kHeadDim);
      some_fixed.insert(some_fixed.end(), fixed.begin() + at, fixed.begin() + at + cuda::kHeadDim);
    }
    EXPECT_LT(distance(some_fixed, want), 6e-3);
    EXPECT_LT(distance(some, want), 6e-3);
    EXPECT_LT(distance(first, fixed), 6e-3);
    EXPECT_TRUE(same_bits(run(Sums::free, false, 2), first));  // twice from the same scratch
    EXPECT_TRUE(same_bits(run(Sums::free, true), first));
  }

  std::vector<int> lengths_, table_;
  int stride_ = 0;
  std::vector<Bf16> pool_, q_;
  std::unique_ptr<Device<Bf16>> device_pool_;
};

TEST_F(FreeSoftmax, RaggedLengths) {
  make({1, 64, 65, 511, 512, 513, 1000, 3000, 5, 40000, 7777});
  check();
}
TEST_F(FreeSoftmax, OneSequenceOfAnyLength) {
  for (const int length : {1, 63, 64, 129, 8192, 16901, 40000}) {
    SCOPED_TRACE(length);
    make({length});
    check();
  }
}
TEST_F(FreeSoftmax, ManyShortSequencesAndALongOne) {
  std::vector<int> lengths(60);
  for (std::size_t s = 0; s < lengths.size(); ++s) lengths[s] = 1 + static_cast<int>(s * 37 % 400);
  lengths[17] = 20000;
  make(lengths);
  check();
}

// --- The backend ---------------------------------------------------------------------------------

/// A decode step's blocks: as close to the reference as with fixed sums, under a name of its own.
TEST(FreeBackend, ADecodeStepOfBothModes) {
  constexpr ModelShape kShape{.hidden = 2048,
                              .heads = 16,
                              .kv_heads = 2,
                              .head_dim = 128,
                              .experts = 8,
                              .experts_per_token = 2,
                              .inner = 384};
  constexpr std::uint32_t kRows = 20;
  std::vector<std::unique_ptr<Backend>> backends;
  for (const Sums sums : {Sums::fixed, Sums::free}) {
    auto made = make_cuda_backend(
        {.family = CudaFamily::sm90, .shape = kShape, .sums = sums, .strict = true});
    if (!made.is_ok()) GTEST_SKIP() << made.status().message();
    EXPECT_EQ(made.value()->numerics(),
              sums == Sums::free ? "cuda-sm90-bf16-free" : "cuda-sm90-bf16");
    backends.push_back(std::make_unique<HostedBackend>(
        std::move(made).value(), "sm90", [](const std::function<void()>& call) { call(); }));
  }
  backends.push_back(make_reference_backend(Precision::bf16));
  Rng rng(2032);
  const std::size_t hidden = kShape.hidden, width = std::size_t{kShape.heads} * 128;
  const std::size_t all = (std::size_t{kShape.heads} + 2 * kShape.kv_heads) * 128;
  const HostWeight weights[] = {random_weight(rng, 3 * width, hidden, Dtype::bf16),
                                random_weight(rng, width, hidden, Dtype::bf16),
                                random_weight(rng, hidden, width, Dtype::bf16),
                                random_weight(rng, all, hidden, Dtype::bf16)};
  const auto norm_in = random_floats(rng, hidden), norm_post = random_floats(rng, hidden);
  const auto norm = random_floats(rng, width), h = random_floats(rng, kRows * hidden);
  const AttentionFrame frame{norm_in.data(), norm_post.data(), 1e-5F, 3.5F, 1.0F, true, hidden};
  LightningShape lightning{kShape.heads, 128, std::vector<float>(kShape.heads, 0.05F)};
  const SoftmaxShape softmax{kShape.heads, kShape.kv_heads, 128, 64, 1e7};
  std::vector<std::vector<float>> results;
  for (const auto& backend : backends) {
    std::vector<std::unique_ptr<Matrix>> packed;
    for (const HostWeight& weight : weights) {
      const HostMatrix part = weight.matrix();
      packed.push_back(backend->pack({&part, 1}));
    }
    std::vector<std::shared_ptr<std::byte>> slots;
    std::vector<LightningSegment> lightning_rows;
    std::vector<SoftmaxSegment> softmax_rows;
    std::vector<std::uint32_t> pages(kRows);
    std::iota(pages.begin(), pages.end(), 0U);
    for (std::uint32_t r = 0; r < kRows; ++r) {
      slots.push_back(backend->allocate(backend->lightning_slot_bytes(lightning)));
      lightning_rows.push_back({r, 1, 0, slots.back().get()});
      softmax_rows.push_back({r, 1, 0, &pages[r]});
    }
    const auto pool = backend->allocate(kRows * backend->softmax_page_bytes(softmax));
    AttentionScratch scratch;
    std::vector<float> x = h, y(h.size(), kPoison), z(h.size(), kPoison);
    backend->lightning_block(frame, lightning,
                             {*packed[0], *packed[1], norm.data(), 1e-6F, *packed[2]}, kRows,
                             lightning_rows, scratch, x.data(), y.data());
    x = h;
    backend->softmax_block(frame, softmax, {*packed[3], *packed[2]}, kRows, softmax_rows,
                           pool.get(), scratch, x.data(), z.data());
    y.insert(y.end(), z.begin(), z.end());
    results.push_back(y);
  }
  EXPECT_LT(distance(results[0], results[2]), 2e-2);
  EXPECT_LT(distance(results[1], results[2]), 2e-2);
  EXPECT_LT(distance(results[1], results[0]), 2e-2);
}

TEST(FreeBackend, IsRefusedWhereTheKernelsDoNotFit) {
  ModelShape small{};
  small.head_dim = 64;
  const auto made = make_cuda_backend({.shape = small, .sums = Sums::free});
  ASSERT_FALSE(made.is_ok());  // without a GPU for want of one
  EXPECT_EQ(made.status().code(), Code::failed_precondition);
}

}  // namespace
}  // namespace fulgur::kernels::testing
