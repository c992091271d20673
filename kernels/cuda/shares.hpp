// Which block sums what when the order of sums is free (Sums::free): whole numbers only, which
// every block works out for itself, and tests on the host.
//
// Product. Tiles are dealt one by one, as with fixed sums, while they fill whole rounds of the
// units (blocks, or clusters of them). The last whole round and what is left behind it are one row
// of stages instead (64 columns each), tile after tile, cut into equal stretches, one a unit, so
// that all end together. What a unit has of a tile is a piece. The piece with a tile's first stage
// stores the tile; the units behind begin their stretches with the tile's other pieces, leave their
// sums in memory and go on. So a sum is at hand long before it is waited for, and a unit leaves one
// at most. (Stream-K of arXiv:2301.03598, whose "two tiles a unit, the others whole" this is.)
//
// Softmax decode cuts the pages of all sequences and KV heads in the same way, a stretch a warp.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cuda/layout.hpp"

namespace fulgur::kernels::cuda {

// --- Product -----------------------------------------------------------------------------------

/// Of the tiles the last ones, cut into stretches for units 0 to units - 1.
struct Shares {
  int tiles;
  int units;
};

/// Pieces of fewer stages than these join their neighbours: to hand sums over takes longer.
inline constexpr int kLeastPiece = 4;
/// Of a tile that nobody has whole, a unit gets so many stages on average, or is not asked.
inline constexpr int kLeastStretch = 8;

/// What decides whether to cut.
struct StageCost {
  int alone_ns;       ///< of one unit that has the memory for itself
  int bytes;          ///< that a unit brings from DRAM
  int partial_bytes;  ///< of the sums that a block hands over
};

/// An H100, roughly: they choose between orders of sums, and that is all that hangs on them.
inline constexpr int kDramBytesPerNs = 3000;
inline constexpr int kBlockBytesPerNs = 75;    ///< that one multiprocessor can bring
inline constexpr int kBlockFlopsPerNs = 5700;  ///< of tensor cores, as large products reach them
inline constexpr int kPartialBytesPerNs = 100;
inline constexpr int kHandOverNs = 1500;  ///< flag, barriers, the tensor cores' pause
inline constexpr int kWorthwhileNs = 1000;

FULGUR_HOST_DEVICE int larger(int a, int b) { return a > b ? a : b; }
FULGUR_HOST_DEVICE int smaller(int a, int b) { return a < b ? a : b; }

/// Time of a stage while `busy` units share the memory.
FULGUR_HOST_DEVICE int stage_ns(const StageCost& cost, int busy) {
  return larger(cost.alone_ns, busy * cost.bytes / kDramBytesPerNs);
}

/// Time of `rest` tiles cut for `units` units. alone: there is no round before them, so a tile's
/// pieces end at once, and one unit adds them all up; else two as a rule.
FULGUR_HOST_DEVICE int cut_ns(int rest, int units, int stages, const StageCost& cost, bool alone) {
  const int moves = alone ? (units + rest - 1) / rest : 2;
  return stages * rest / units * stage_ns(cost, units) + kHandOverNs +
         moves * (cost.partial_bytes / kPartialBytesPerNs);
}

/// The cut of a product of `tiles` tiles of so many stages, or none: {0, units}. Fewer tiles than
/// units: each in two to eight parts, or over all units.
FULGUR_HOST_DEVICE Shares shares_of(int tiles, int units, int stages, const StageCost& cost) {
  const int rest = tiles % units;
  if (rest == 0) return {0, units};
  const int dealt = stages * stage_ns(cost, rest) - kWorthwhileNs;
  if (tiles > units) {
    return {cut_ns(rest, units, stages, cost, false) < dealt ? units + rest : 0, units};
  }
  const int most = smaller(units, rest * (stages / kLeastStretch));
  Shares best{0, units};
  int least = dealt;
  for (int parts = 2; parts <= 9; ++parts) {
    const int asked = parts == 9 ? most : rest * parts;
    if (asked > most || asked <= rest) continue;
    const int ns = cut_ns(rest, asked, stages, cost, true);
    if (ns < least) {
      least = ns;
      best = {rest, asked};
    }
  }
  return best;
}

/// Where a unit's stretch begins in the row of shares.tiles * stages stages; unit `units`, and all
/// beyond: the end. Stretches are kLeastStretch stages long or more, or no tile is as long: so none
/// is empty where a tile is cut.
FULGUR_HOST_DEVICE int stretch_begin(const Shares& shares, int stages, int unit) {
  const int all = shares.tiles * stages;
  if (unit >= shares.units) return all;
  int at = static_cast<int>(static_cast<std::int64_t>(all) * unit / shares.units);
  const int in_tile = at % stages;
  if (in_tile < kLeastPiece) {
    at -= in_tile;
  } else if (stages - in_tile < kLeastPiece) {
    at += stages - in_tile;
  }
  return at;
}

/// A unit's part: tiles below `whole` one by one, then stages [begin, end) of the row, and whose
/// sums it adds where its stretch ends within a tile that it has begun: the next units', so many.
struct Stretch {
  int whole;
  int begin;
  int end;
  int others;
};
/// Of a unit of a product of `tiles` tiles.
FULGUR_HOST_DEVICE Stretch stretch_of(const Shares& shares, int tiles, int stages, int unit) {
  Stretch stretch{tiles - shares.tiles, stretch_begin(shares, stages, unit),
                  stretch_begin(shares, stages, unit + 1), 0};
  const int tile_end = (stretch.end + stages - 1) / stages * stages;
  while (stretch_begin(shares, stages, unit + 1 + stretch.others) < tile_end) ++stretch.others;
  return stretch;
}

/// Memory of a product with free sums: a flag for each block, then the sums that it hands over, as
/// many as a block has accumulators.
inline constexpr int kPartialBytes = 128 * 1024;
inline constexpr int kBlocksMax = 1024;
inline constexpr int kFlagBytes = kBlocksMax * 4;

// --- Softmax decode ----------------------------------------------------------------------------

/// First of warp w's pages; `warps` of them share `pages`, which are as many at least.
FULGUR_HOST_DEVICE std::int64_t pages_before(std::int64_t pages, int warps, int warp) {
  return pages * warp / warps;
}
/// Whose a page is.
FULGUR_HOST_DEVICE int warp_of(std::int64_t pages, int warps, std::int64_t page) {
  return static_cast<int>(((page + 1) * warps - 1) / pages);
}

}  // namespace fulgur::kernels::cuda
