// Who sums what when sums are free: that every stage and every page is somebody's once, and that
// who leaves sums and who waits for them agree. On the host, in every build with CUDA.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <vector>

#include "kernels/cuda/shares.hpp"

namespace fulgur::kernels::cuda {
namespace {

struct Part {
  int unit, tile, begin, end;
};

/// A unit's pieces of the row of stages, as product_free.cu walks them.
std::vector<Part> parts_of(const Stretch& stretch, int stages, int unit) {
  std::vector<Part> parts;
  for (int at = stretch.begin; at < stretch.end;) {
    const int begin = at % stages;
    const int end = std::min(stages, begin + stretch.end - at);
    parts.push_back({unit, at / stages, begin, end});
    at += end - begin;
  }
  return parts;
}

void check(const Shares& shares, int tiles, int stages) {
  std::map<int, std::vector<Part>> parts_of_tile;
  std::vector<int> others;
  for (int unit = 0; unit < shares.units; ++unit) {
    const Stretch stretch = stretch_of(shares, tiles, stages, unit);
    ASSERT_EQ(stretch.whole, tiles - shares.tiles);
    others.push_back(stretch.others);
    const auto parts = parts_of(stretch, stages, unit);
    for (std::size_t i = 0; i < parts.size(); ++i) {
      // A unit leaves sums once at most, and before it waits.
      ASSERT_TRUE(i == 0 || parts[i].begin == 0);
      parts_of_tile[parts[i].tile].push_back(parts[i]);
    }
  }
  ASSERT_EQ(static_cast<int>(parts_of_tile.size()), shares.tiles);
  for (const auto& [tile, parts] : parts_of_tile) {
    int covered = 0;
    for (std::size_t i = 0; i < parts.size(); ++i) {
      ASSERT_EQ(parts[i].begin, covered);
      covered = parts[i].end;
      // The units waited for are the next ones, in order.
      ASSERT_EQ(parts[i].unit, parts[0].unit + static_cast<int>(i));
    }
    ASSERT_EQ(covered, stages);
    if (parts[0].end < stages) {
      ASSERT_EQ(others[static_cast<std::size_t>(parts[0].unit)],
                static_cast<int>(parts.size()) - 1);
    }
  }
}

TEST(Shares, EveryStageIsSomebodysOnce) {
  for (const int stages : {1, 2, 3, 5, 7, 8, 9, 16, 31, 96, 128, 144}) {
    for (const int units : {1, 2, 3, 7, 66, 132}) {
      for (const int tiles : {0, 1, 2, 3, 24, 65, 66, 67, 96, 131, 133, 197, 263}) {
        SCOPED_TRACE(::testing::Message() << tiles << " tiles of " << stages << ", " << units);
        const int asked = std::clamp(tiles * stages / kLeastStretch, 1, units);
        ASSERT_NO_FATAL_FAILURE(check({tiles, asked}, tiles + 5, stages));
      }
    }
  }
}

/// A stage of tiles of 128 x 256 in clusters of two, and of 256 x 16, as product_free.cu has them.
constexpr StageCost kWide{735, 32768, 131072};
constexpr StageCost kNarrow{464, 32768, 16384};

TEST(Shares, WhatIsChosenIsACut) {
  for (const StageCost& cost : {kWide, kNarrow}) {
    for (const int stages : {1, 8, 9, 16, 96, 128, 144}) {
      for (const int units : {1, 66, 132}) {
        for (int tiles = 1; tiles < 800; tiles += 7) {
          const Shares shares = shares_of(tiles, units, stages, cost);
          SCOPED_TRACE(::testing::Message() << tiles << " tiles of " << stages << ", " << units);
          ASSERT_LE(shares.tiles, tiles);
          ASSERT_LE(shares.units, units);
          // What is dealt fills whole rounds, unless all is.
          ASSERT_TRUE(shares.tiles == 0 || (tiles - shares.tiles) % units == 0);
          ASSERT_NO_FATAL_FAILURE(check(shares, tiles, stages));
        }
      }
    }
  }
}

TEST(Shares, TilesAreCutWhereThatPays) {
  // 256 rows by M1's 24576 x 6144: one round and a half, and its 6144 x 8192: a third of one.
  EXPECT_EQ(shares_of(96, 66, 96, kWide).tiles, 96);
  EXPECT_EQ(shares_of(24, 66, 128, kWide).tiles, 24);
  EXPECT_EQ(shares_of(24, 132, 128, kNarrow).tiles, 24);
  // Nothing to gain: whole rounds, and 60 or 96 blocks, which are as fast as memory.
  EXPECT_EQ(shares_of(132, 66, 96, kWide).tiles, 0);
  EXPECT_EQ(shares_of(192, 132, 96, kNarrow).tiles, 0);
  EXPECT_EQ(shares_of(96, 132, 96, kNarrow).tiles, 0);
  // Too short to cut.
  EXPECT_EQ(shares_of(24, 66, 8, kWide).tiles, 0);
}

TEST(Shares, EveryPageIsOneWarpsAndResultsHaveSlotsOfTheirOwn) {
  constexpr int kKvHeads = 3;
  const std::vector<std::vector<int>> calls = {
      {1}, {2, 1, 1}, {7, 1, 300, 2}, {2048}, std::vector<int>(64, 128), std::vector<int>(200, 1)};
  for (const auto& lengths : calls) {
    for (const int all_warps : {1, 5, 528}) {
      std::int64_t pages = 0;
      for (const int length : lengths) pages += length * kKvHeads;
      const int warps = static_cast<int>(std::min<std::int64_t>(all_warps, pages));
      std::map<std::int64_t, int> slots;  // and how many pages of one pair share it
      std::int64_t page = 0;
      for (std::size_t s = 0; s < lengths.size(); ++s) {
        for (int head = 0; head < kKvHeads; ++head) {
          const std::int64_t pair = static_cast<std::int64_t>(s) * kKvHeads + head;
          const std::int64_t first = pair + warp_of(pages, warps, page);
          const std::int64_t last = pair + warp_of(pages, warps, page + lengths[s] - 1);
          if (!slots.empty()) {
            ASSERT_GT(first, slots.rbegin()->first);
          }
          for (int i = 0; i < lengths[s]; ++i, ++page) {
            const int warp = warp_of(pages, warps, page);
            ASSERT_LE(pages_before(pages, warps, warp), page);
            ASSERT_GT(pages_before(pages, warps, warp + 1), page);
            ++slots[pair + warp];
          }
          for (std::int64_t slot = first; slot <= last; ++slot) ASSERT_EQ(slots.count(slot), 1U);
          ASSERT_EQ(slots.rbegin()->first, last);
        }
      }
      const auto pairs = static_cast<std::int64_t>(lengths.size()) * kKvHeads;
      ASSERT_LT(slots.rbegin()->first, pairs + all_warps);
    }
  }
}

}  // namespace
}  // namespace fulgur::kernels::cuda
