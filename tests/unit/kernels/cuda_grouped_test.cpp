// Grouping of routes against its definition, and the grouped bf16 product under every shape of
// tile: against float64, itself, and what lies beside. Skipped without a GPU.
#include "common/base/rng.hpp"
#include "kernels/cuda/launch.hpp"
#include "kernels/cuda/layout.hpp"
#include "tests/unit/kernels/device_values.hpp"
#include "tests/unit/kernels/fixtures.hpp"

namespace fulgur::kernels::testing {
namespace {

class CudaGroups : public ::testing::Test {
 protected:
  void SetUp() override {
    int devices = 0;
    if (cudaGetDeviceCount(&devices) != cudaSuccess || devices < 1) GTEST_SKIP() << "no GPU";
  }
  Rng rng_{2029};
};

TEST_F(CudaGroups, RoutesKeepTheirOrder) {
  struct Case {
    int tokens, k, groups;
    bool skewed;
  };
  // One block to 2,048 routes; then ranges, and pieces of ranges, that end anywhere.
  const Case cases[] = {{1, 2, 32, false},    {1, 1, 1, false},      {33, 3, 5, false},
                        {1024, 2, 256, true}, {2049, 1, 32, false},  {3000, 1, 7, true},
                        {2500, 2, 3, true},   {9001, 2, 256, false}, {16384, 2, 32, false},
                        {16384, 2, 32, true}, {40000, 2, 32, true}};
  for (const Case& c : cases) {
    const int routes = c.tokens * c.k;
    std::vector<std::uint16_t> ids;
    std::vector<std::vector<int>> expected(c.groups);
    for (int r = 0; r < routes; ++r) {
      const auto most = c.skewed ? 1 + rng_.below(static_cast<std::uint64_t>(c.groups))
                                 : static_cast<std::uint64_t>(c.groups);
      ids.push_back(static_cast<std::uint16_t>(rng_.below(most)));
      expected[ids.back()].push_back(r);
    }
    const int capacity = cuda::tiled_capacity(routes, c.groups);
    const Device<std::uint16_t> device_ids(ids);
    const Device<int> counts(c.groups), offsets(c.groups), source(capacity), target(capacity);
    const int poison = target.host()[0];
    const cuda::RouteGroups plan{counts.get(), offsets.get(), source.get(),
                                 target.get(), c.groups,      capacity};
    ASSERT_EQ(cuda::plan_groups(device_ids.get(), c.tokens, c.k, plan, nullptr), cudaSuccess);
    std::vector<int> want_counts, want_offsets;
    std::vector<int> want_source(capacity, -1), want_target(capacity, poison);
    int next = 0;
    for (const auto& group : expected) {
      want_counts.push_back(static_cast<int>(group.size()));
      want_offsets.push_back(next);
      for (std::size_t i = 0; i < group.size(); ++i) {
        want_source[next + i] = group[i] / c.k;
        want_target[next + i] = group[i];
      }
      next += (want_counts.back() + 7) / 8 * 8;
    }
    SCOPED_TRACE(::testing::Message() << routes << " routes, " << c.groups << " groups");
    EXPECT_TRUE(counts.host() == want_counts);
    EXPECT_TRUE(offsets.host() == want_offsets);
    EXPECT_TRUE(source.host() == want_source);
    EXPECT_TRUE(target.host() == want_target);
  }
}

/// Groups whose rows stand in another order in the output.
struct Groups {
  std::vector<int> sizes;
  std::vector<int> offsets, out_rows;
  std::vector<int> places;  // tiled rows in use, and
  std::vector<int> group;   // the group of each
  int capacity = 0;

  Groups(Rng& rng, std::vector<int> sizes_of_groups) : sizes(std::move(sizes_of_groups)) {
    for (std::size_t g = 0; g < sizes.size(); ++g) {
      offsets.push_back(capacity);
      for (int i = 0; i < sizes[g]; ++i) {
        places.push_back(capacity + i);
        group.push_back(static_cast<int>(g));
      }
      capacity += (sizes[g] + 7) / 8 * 8;
    }
    capacity += 256;
    out_rows.assign(capacity, -1);
    std::vector<int> order(places.size());
    for (std::size_t i = 0; i < order.size(); ++i) {
      const std::size_t other = rng.below(i + 1);
      order[i] = order[other];
      order[other] = static_cast<int>(i);
    }
    for (std::size_t i = 0; i < order.size(); ++i) out_rows[places[i]] = order[i];
  }
  static int weight(int group) { return group % 4 == 3 ? 1 : 0; }
  int count() const { return static_cast<int>(sizes.size()); }
  int rows() const { return static_cast<int>(places.size()); }
};

float silu_of(double x) { return static_cast<float>(x / (1 + std::exp(-x))); }

/// Sizes of groups: many of several tiles, and few, which then have multiprocessors of their own.
const std::vector<int> kManyHot = {0,  1, 300, 255, 9,   257, 1030, 8, 16,
                                   17, 0, 256, 144, 129, 64,  513,  0};
const std::vector<int> kFewHot = {40, 300, 16, 1, 90, 128, 5, 0, 64, 257, 33, 100, 7, 24, 0};

/// Two weights; in each group of the first one row size / 2 holds the same values.
class CudaProduct : public CudaGroups, public ::testing::WithParamInterface<std::vector<int>> {
 protected:
  static constexpr int kCols = 192, kWeightRows = 512;
  // The launcher chooses tiles by rows a group, and other ones for 16 rows in all (0).
  static constexpr int kMeans[] = {0, 4, 64, 200};

  void SetUp() override {
    CudaGroups::SetUp();
    if (IsSkipped()) return;
    groups_ = std::make_unique<Groups>(rng_, GetParam());
    x_ = rounded(random_floats(rng_, static_cast<std::size_t>(groups_->rows()) * kCols));
    for (int i = 0, at = 0; i < groups_->count(); at += groups_->sizes[i++]) {
      if (groups_->sizes[i] == 0) continue;
      if (Groups::weight(i) == 0) alike_.push_back(at + groups_->sizes[i] / 2);
    }
    for (const int row : alike_) {
      std::copy_n(x_.begin() + alike_[0] * kCols, kCols, x_.begin() + row * kCols);
    }
    std::vector<int> source(groups_->capacity, -1);
    for (int r = 0; r < groups_->rows(); ++r) source[groups_->places[r]] = r;
    tiled_ = std::make_unique<Device<Bf16>>(static_cast<std::size_t>(groups_->capacity) * kCols);
    source_ = std::make_unique<Device<int>>(source);
    counts_ = std::make_unique<Device<int>>(groups_->sizes);
    offsets_ = std::make_unique<Device<int>>(groups_->offsets);
    out_rows_ = std::make_unique<Device<int>>(groups_->out_rows);
    cuda::RouteGroups plan{};
    plan.source = source_->get();
    plan.capacity = groups_->capacity;
    const Device<Bf16> device_x(x_);
    ASSERT_EQ(cuda::gather_tiled(device_x.get(), false, kCols, plan, tiled_->get(), nullptr),
              cudaSuccess);
    ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
  }

  /// Packs two weights as the groups' own. interleave as pack_weight()'s.
  void use(const HostWeight (&weights)[2], int interleave) {
    for (int w = 0; w < 2; ++w) {
      if (interleave < 2) {
        packed_[w] = std::make_unique<Device<Bf16>>(std::vector<Bf16>(kWeightRows * kCols));
      }
      const Device<std::byte> plain(weights[w].bytes);
      ASSERT_EQ(cuda::pack_weight(plain.get(), static_cast<int>(weights[w].rows), kCols, 0,
                                  interleave, packed_[w]->get(), nullptr),
                cudaSuccess);
      ASSERT_EQ(cudaDeviceSynchronize(), cudaSuccess);
    }
    std::vector<const void*> table;
    for (int g = 0; g < groups_->count(); ++g) table.push_back(packed_[Groups::weight(g)]->get());
    table_ = std::make_unique<Device<const void*>>(table);
  }

  cuda::Product product(int mean, cuda::Store store, void* out, int features) const {
    cuda::Product p{};
    p.x = tiled_->get();
    p.capacity = groups_->capacity;
    p.cols = kCols;
    p.weight_rows = kWeightRows;
    p.weights = table_->get();
    p.counts = counts_->get();
    p.rows = std::max(16, mean * groups_->count());
    p.offsets = offsets_->get();
    p.groups = groups_->count();
    p.store = store;
    p.out = out;
    p.features = features;
    return p;
  }

  double dot(int row, const HostWeight& weight, int feature) const {
    double sum = 0;
    for (int c = 0; c < kCols; ++c) {
      sum +=
          static_cast<double>(to_float(x_[row * kCols + c])) * weight.values[feature * kCols + c];
    }
    return sum;
  }

  std::unique_ptr<Groups> groups_;
  std::vector<Bf16> x_;
  std::vector<int> alike_;  // rows of x with the same values, in groups of the first weight
  std::unique_ptr<Device<Bf16>> tiled_, packed_[2];
  std::unique_ptr<Device<int>> source_, counts_, offsets_, out_rows_;
  std::unique_ptr<Device<const void*>> table_;
};

TEST_P(CudaProduct, RowsOfEveryShapeAreTheSameAndNothingElseIsWritten) {
  // Features that end with a tile, within one in the middle of 16 bytes, and where pieces of 16
  // bytes do not fit the rows.
  for (const int features : {512, 328, 330}) {
    const HostWeight weights[] = {random_weight(rng_, features, kCols, Dtype::bf16),
                                  random_weight(rng_, features, kCols, Dtype::bf16)};
    use(weights, 0);
    const auto rows = static_cast<std::size_t>(groups_->capacity);
    const std::size_t guard = 64;
    for (const auto store :
         {cuda::Store::bf16_rows, cuda::Store::silu_bf16_rows, cuda::Store::f32_rows}) {
      const bool is_f32 = store == cuda::Store::f32_rows;
      for (const bool scattered : {false, true}) {
        std::vector<std::uint8_t> kept;
        for (const int mean : kMeans) {
          SCOPED_TRACE(::testing::Message()
                       << features << " features, store " << static_cast<int>(store)
                       << ", scattered " << scattered << ", mean " << mean);
          const std::size_t size = is_f32 ? 4 : 2;
          const Device<std::uint8_t> out(rows * features * size + guard);
          auto p = product(mean, store, out.get(), features);
          p.out_rows = scattered ? out_rows_->get() : nullptr;
          ASSERT_EQ(cuda::product(p, nullptr), cudaSuccess);
          const auto got = out.host();
          if (kept.empty()) {
            kept = got;
          } else {
            ASSERT_TRUE(got == kept);
          }
          if (mean != kMeans[0]) continue;
          // Against float64, and what is no row of any group.
          std::vector<bool> used(rows, false);
          const auto place = [&](int r) {
            const int tiled_row = groups_->places[r];
            return scattered ? groups_->out_rows[tiled_row] : tiled_row;
          };
          std::vector<float> values, wanted;
          for (int r = 0; r < groups_->rows(); ++r) {
            used[place(r)] = true;
            for (int f = r % 7; f < features; f += 7) {
              const std::uint8_t* at = got.data() + (std::size_t(place(r)) * features + f) * size;
              float value = 0;
              Bf16 half;
              if (is_f32) {
                std::memcpy(&value, at, 4);
              } else {
                std::memcpy(&half, at, 2);
                value = to_float(half);
              }
              const double sum = dot(r, weights[Groups::weight(groups_->group[r])], f);
              values.push_back(value);
              wanted.push_back(store == cuda::Store::silu_bf16_rows ? silu_of(sum)
                                                                    : static_cast<float>(sum));
            }
          }
          EXPECT_LT(distance(values, wanted), is_f32 ? 1e-5 : 3e-3);
          bool untouched = true;
          for (std::size_t i = 0; i < got.size(); ++i) {
            const std::size_t row = i / (features * size);
            if (row >= rows || !used[row]) untouched = untouched && got[i] == 0xff;
          }
          EXPECT_TRUE(untouched);
          for (const int r : alike_) {
            EXPECT_EQ(std::memcmp(got.data() + std::size_t(place(r)) * features * size,
                                  got.data() + std::size_t(place(alike_[0])) * features * size,
                                  features * size),
                      0)
                << "row " << r;
          }
        }
      }
    }
  }
}

TEST_P(CudaProduct, TiledSwigluOfEveryShapeIsTheSame) {
  constexpr int kInner = kWeightRows / 2;
  const HostWeight gates[] = {random_weight(rng_, kInner, kCols, Dtype::bf16),
                              random_weight(rng_, kInner, kCols, Dtype::bf16)};
  const HostWeight ups[] = {random_weight(rng_, kInner, kCols, Dtype::bf16),
                            random_weight(rng_, kInner, kCols, Dtype::bf16)};
  use(gates, 1);
  use(ups, 2);
  const auto rows = static_cast<std::size_t>(groups_->capacity);
  std::vector<bool> used(rows, false), padding(rows, false);
  for (const int row : groups_->places) used[row] = true;
  for (std::size_t row = 0; row + 256 < rows; ++row) padding[row] = !used[row];
  std::vector<Bf16> kept;
  for (const int mean : kMeans) {
    SCOPED_TRACE(::testing::Message() << "mean " << mean);
    const Device<Bf16> out(rows * kInner);
    ASSERT_EQ(cuda::product(product(mean, cuda::Store::swiglu_tiled, out.get(), kInner), nullptr),
              cudaSuccess);
    const auto tiled = out.host();
    const auto at = [&](std::size_t row, int f) {
      return tiled[cuda::tiled_byte(row, f, rows) / 2];
    };
    bool untouched = true;
    std::vector<float> values, wanted;
    std::vector<Bf16> mine;
    for (std::size_t row = 0; row < rows; ++row) {
      if (used[row] || padding[row]) continue;
      for (int f = 0; f < kInner; ++f) untouched = untouched && at(row, f).bits == 0xffff;
    }
    EXPECT_TRUE(untouched);
    for (int r = 0; r < groups_->rows(); ++r) {
      for (int f = 0; f < kInner; ++f) {
        mine.push_back(at(groups_->places[r], f));
        if (mean != kMeans[0] || (f + r) % 7 != 0) continue;
        const int w = Groups::weight(groups_->group[r]);
        values.push_back(to_float(mine.back()));
        wanted.push_back(static_cast<float>(silu_of(dot(r, gates[w], f)) * dot(r, ups[w], f)));
      }
    }
    if (kept.empty()) {
      kept = mine;
      EXPECT_LT(distance(values, wanted), 3e-3);
    }
    ASSERT_EQ(mine.size(), kept.size());
    EXPECT_EQ(std::memcmp(mine.data(), kept.data(), mine.size() * sizeof(Bf16)), 0);
    for (const int r : alike_) {
      EXPECT_EQ(std::memcmp(mine.data() + r * kInner, mine.data() + alike_[0] * kInner,
                            kInner * sizeof(Bf16)),
                0)
          << "row " << r;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Sizes, CudaProduct, ::testing::Values(kManyHot, kFewHot),
                         [](const auto& info) { return info.index == 0 ? "ManyHot" : "FewHot"; });

}  // namespace
}  // namespace fulgur::kernels::testing
