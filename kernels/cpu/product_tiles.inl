// Matrix product over one weight panel by AMX: tdpbf16ps adds 32 k of up to 16 rows x 16 columns in
// the order ProductOrder::tiles, whatever rows and columns stand beside an element. A panel lies in
// memory as its B operand wants it: [16 pairs][16 columns][2] is a tile, 16 rows one pair apart.
//
// Up to 16 rows: all four vectors of the panel pass beside one tile of rows, so that memory is read
// front to back, once, and asked for two steps ahead, into the first-level cache.
//
// More rows: up to four tiles of rows x one vector, so that a line of the panel is used by up to
// four multiplications while the next are on their way. K is cut into blocks, and while a block is
// multiplied the next one is asked for, into the second-level cache, as evenly as its
// multiplications go: memory and the tile unit work at the same time. (Two tiles of rows x two
// vectors, whose first rows read memory alone and whose others let it rest, took 1.3 times as long
// for experts of 40 rows and 1.1 times at 32 and 64.) The sums rest in the float32 output between
// blocks, which does not change their bits.

struct alignas(64) TileConfig {
  std::uint8_t palette = 1;
  std::uint8_t start_row = 0;
  std::uint8_t reserved[14] = {};
  std::uint16_t column_bytes[16] = {};
  std::uint8_t rows[16] = {};
};

static constexpr std::size_t kTileRows = 16;
static constexpr std::size_t kTilePairs = kOrderTile / 2;
static constexpr std::size_t kOutBytes = kPanelColumns * sizeof(float);
/// Tiles of rows that one vector of the panel passes beside.
static constexpr std::size_t kTallTiles = 4;
/// Pairs of a K block: of a panel's 16 KiB for one such group of rows, 32 KiB for more, whose sums
/// are moved more often.
static constexpr std::size_t kOneGroupPairs = 64;
static constexpr std::size_t kMoreGroupsPairs = 128;
/// Steps of 16 pairs ahead of its position that a narrow pass asks for, into the first-level cache:
/// what it holds is two steps of up to 4 KiB.
static constexpr std::size_t kTileStepsAhead = 2;
static constexpr int kToFirstLevel = 3;
static constexpr int kToSecondLevel = 2;

/// Up to 16 or, in a tall pass, 64 rows against K pairs [begin, end) of the panel.
struct TilePass {
  const std::byte* rows;
  std::size_t row_bytes;
  const std::byte* panel;  ///< at its first vector
  std::size_t pair_bytes;
  std::size_t begin, end;
  float* out;
  const std::byte* next = nullptr;  ///< what memory is asked for, step by step
  std::size_t lines_a_step = 0;     ///< of it; in a tall pass a multiplication
  const std::byte* turn = nullptr;  ///< where it goes on at `then`; null: nowhere
  const std::byte* then = nullptr;

  const std::byte* a(std::size_t tile, std::size_t pair) const {
    return rows + tile * kTileRows * row_bytes + pair * 4;
  }
  const std::byte* b(std::size_t vec, std::size_t pair) const {
    return panel + pair * pair_bytes + vec * kLineBytes;
  }
  float* c(std::size_t tile, std::size_t vec) const {
    return out + tile * kTileRows * kPanelColumns + vec * kVector;
  }
  void ask(std::size_t lines, int level) {
    for (std::size_t i = 0; i < lines; ++i, next += kLineBytes) {
      if (level == kToFirstLevel) {
        __builtin_prefetch(next, 0, kToFirstLevel);
      } else {
        __builtin_prefetch(next, 0, kToSecondLevel);
      }
    }
  }
};

// Registers: 0-3 sums. Narrow: 4 rows, 5-7 panel. Tall: 4 and 5 rows, 7 the last tile of rows, 6
// panel. A step takes `pairs` pairs, 16 but for the last of an odd K.

/// What the registers are configured for; a new configuration clears them and takes its time.
class TileShape {
 public:
  /// m: rows; 1 to 16, tall 1 to 64.
  void set(bool tall, std::size_t m, std::size_t pairs) {
    if (tall == tall_ && m == m_ && pairs == pairs_) return;
    tall_ = tall;
    m_ = m;
    pairs_ = pairs;
    const std::size_t before_last = tall ? (m - 1) / kTileRows : 0;
    const auto last = static_cast<std::uint8_t>(m - before_last * kTileRows);
    TileConfig config;
    for (std::size_t t = 0; t < 8; ++t) {
      const bool of_rows = t == 4 || (tall && (t == 5 || t == 7));
      config.column_bytes[t] = of_rows ? static_cast<std::uint16_t>(pairs * 4) : kLineBytes;
      const bool whole = tall && (t == 4 || t == 5 || t < before_last);
      const bool of_panel = t > 3 && !of_rows;
      config.rows[t] = of_panel ? static_cast<std::uint8_t>(pairs) : whole ? kTileRows : last;
    }
    // GCC's intrinsic tells the compiler of the first eight bytes only.
    asm volatile("" ::"r"(&config) : "memory");
    _tile_loadconfig(&config);
  }

 private:
  bool tall_ = false;
  std::size_t m_ = 0;
  std::size_t pairs_ = 0;
};

template <int NV>
static inline void narrow_pass(TilePass pass) {
  if (pass.begin == 0) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  } else {
    _tile_loadd(0, pass.c(0, 0), kOutBytes);
    if constexpr (NV > 1) _tile_loadd(1, pass.c(0, 1), kOutBytes);
    if constexpr (NV > 2) _tile_loadd(2, pass.c(0, 2), kOutBytes);
    if constexpr (NV > 3) _tile_loadd(3, pass.c(0, 3), kOutBytes);
  }
  // A burst of requests would fill the line buffers that the loads of tiles need.
  const std::size_t share = pass.lines_a_step / NV;
  for (std::size_t pair = pass.begin; pair < pass.end; pair += kTilePairs) {
    _tile_loadd(4, pass.a(0, pair), pass.row_bytes);
    _tile_loadd(5, pass.b(0, pair), pass.pair_bytes);
    pass.ask(share, kToFirstLevel);
    _tile_dpbf16ps(0, 4, 5);
    if constexpr (NV > 1) {
      _tile_loadd(6, pass.b(1, pair), pass.pair_bytes);
      pass.ask(share, kToFirstLevel);
      _tile_dpbf16ps(1, 4, 6);
    }
    if constexpr (NV > 2) {
      _tile_loadd(7, pass.b(2, pair), pass.pair_bytes);
      pass.ask(share, kToFirstLevel);
      _tile_dpbf16ps(2, 4, 7);
    }
    if constexpr (NV > 3) {
      _tile_loadd(5, pass.b(3, pair), pass.pair_bytes);
      pass.ask(share, kToFirstLevel);
      _tile_dpbf16ps(3, 4, 5);
    }
    if (pass.next == pass.turn) pass.next = pass.then;
  }
  _tile_stored(0, pass.c(0, 0), kOutBytes);
  if constexpr (NV > 1) _tile_stored(1, pass.c(0, 1), kOutBytes);
  if constexpr (NV > 2) _tile_stored(2, pass.c(0, 2), kOutBytes);
  if constexpr (NV > 3) _tile_stored(3, pass.c(0, 3), kOutBytes);
}

/// Multiplies tile kTile of kTiles and asks for its share of the next block.
template <int kTile, int kTiles>
static inline void tall_multiply(TilePass& pass, std::size_t pair) {
  constexpr bool kLast = kTile + 1 == kTiles;
  if constexpr (kLast) {
    _tile_loadd(7, pass.a(kTile, pair), pass.row_bytes);
  } else if constexpr (kTile == 1) {
    _tile_loadd(5, pass.a(kTile, pair), pass.row_bytes);
  } else {
    _tile_loadd(4, pass.a(kTile, pair), pass.row_bytes);
  }
  pass.ask(pass.lines_a_step, kToSecondLevel);
  if constexpr (kTile == 0 && kLast) _tile_dpbf16ps(0, 7, 6);
  if constexpr (kTile == 0 && !kLast) _tile_dpbf16ps(0, 4, 6);
  if constexpr (kTile == 1 && kLast) _tile_dpbf16ps(1, 7, 6);
  if constexpr (kTile == 1 && !kLast) _tile_dpbf16ps(1, 5, 6);
  if constexpr (kTile == 2 && kLast) _tile_dpbf16ps(2, 7, 6);
  if constexpr (kTile == 2 && !kLast) _tile_dpbf16ps(2, 4, 6);
  if constexpr (kTile == 3) _tile_dpbf16ps(3, 7, 6);
}

/// kTiles tiles of rows x one vector. Returns the pass with `next` moved on.
template <int kTiles>
static inline TilePass tall_pass(TilePass pass) {
  if (pass.begin == 0) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  } else {
    _tile_loadd(0, pass.c(0, 0), kOutBytes);
    if constexpr (kTiles > 1) _tile_loadd(1, pass.c(1, 0), kOutBytes);
    if constexpr (kTiles > 2) _tile_loadd(2, pass.c(2, 0), kOutBytes);
    if constexpr (kTiles > 3) _tile_loadd(3, pass.c(3, 0), kOutBytes);
  }
  for (std::size_t pair = pass.begin; pair < pass.end; pair += kTilePairs) {
    _tile_loadd(6, pass.b(0, pair), pass.pair_bytes);
    tall_multiply<0, kTiles>(pass, pair);
    if constexpr (kTiles > 1) tall_multiply<1, kTiles>(pass, pair);
    if constexpr (kTiles > 2) tall_multiply<2, kTiles>(pass, pair);
    if constexpr (kTiles > 3) tall_multiply<3, kTiles>(pass, pair);
  }
  _tile_stored(0, pass.c(0, 0), kOutBytes);
  if constexpr (kTiles > 1) _tile_stored(1, pass.c(1, 0), kOutBytes);
  if constexpr (kTiles > 2) _tile_stored(2, pass.c(2, 0), kOutBytes);
  if constexpr (kTiles > 3) _tile_stored(3, pass.c(3, 0), kOutBytes);
  return pass;
}

/// The same sums by fused multiply-adds: a product of bf16 is exact in float32, so the bits are
/// equal. For so few rows that a tile would be nearly empty: reading ahead of their loads, plain
/// vectors keep memory busier.
template <int MR, int NV>
static inline void few_rows(TilePass pass) {
  Vec sum[MR][NV];
#pragma GCC unroll 4
  for (int r = 0; r < MR; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) sum[r][v] = zero();
  }
  const auto* panel = reinterpret_cast<const std::uint32_t*>(pass.panel);
  const std::size_t columns = pass.pair_bytes / sizeof *panel;
  for (std::size_t begin = 0; begin < pass.end; begin += kTilePairs) {
    const std::size_t end = begin + kTilePairs < pass.end ? begin + kTilePairs : pass.end;
    Vec even[MR][NV], odd[MR][NV];
#pragma GCC unroll 4
    for (int r = 0; r < MR; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v) even[r][v] = odd[r][v] = zero();
    }
    for (std::size_t pair = begin; pair < end; ++pair, panel += columns) {
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v, pass.next += kLineBytes) {
        __builtin_prefetch(pass.next, 0, kToFirstLevel);
      }
      VecPair a[MR];
#pragma GCC unroll 4
      for (int r = 0; r < MR; ++r) {
        std::uint32_t both;
        __builtin_memcpy(&both, pass.rows + r * pass.row_bytes + pair * 4, sizeof both);
        const __m512i w = _mm512_set1_epi32(static_cast<int>(both));
        a[r] = pair_of(w);
      }
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v) {
        const VecPair w = load_pairs(panel + v * kVector);
#pragma GCC unroll 4
        for (int r = 0; r < MR; ++r) {
          even[r][v] = fma(a[r].even, w.even, even[r][v]);
          odd[r][v] = fma(a[r].odd, w.odd, odd[r][v]);
        }
      }
    }
    if (pass.next == pass.turn) pass.next = pass.then;
#pragma GCC unroll 4
    for (int r = 0; r < MR; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v) sum[r][v] = add(sum[r][v], add(even[r][v], odd[r][v]));
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < MR; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) store(pass.out + r * kPanelColumns + v * kVector, sum[r][v]);
  }
}

template <int MR>
static void few_rows_by_vecs(const ProductTask& task, const TilePass& pass) {
  switch (task.vecs) {
    case 1:
      few_rows<MR, 1>(pass);
      break;
    case 2:
      few_rows<MR, 2>(pass);
      break;
    case 3:
      few_rows<MR, 3>(pass);
      break;
    default:
      few_rows<MR, 4>(pass);
      break;
  }
}

/// Whole steps, then what is left of an odd K in a shape of its own. Returns the pass after them.
template <class Run>
static inline TilePass whole_and_rest(TilePass pass, bool tall, std::size_t m, TileShape& shape,
                                      const Run& run) {
  const std::size_t end = pass.end;
  const std::size_t rest = (end - pass.begin) % kTilePairs;
  pass.end = end - rest;
  if (pass.end > pass.begin) {
    shape.set(tall, m, kTilePairs);
    pass = run(pass);
  }
  if (rest == 0) return pass;
  pass.begin = pass.end;
  pass.end = end;
  shape.set(tall, m, rest);
  return run(pass);
}

static void narrow_product(const ProductTask& task, const TilePass& pass, TileShape& shape) {
  whole_and_rest(pass, false, task.m, shape, [&](const TilePass& part) {
    switch (task.vecs) {
      case 1:
        narrow_pass<1>(part);
        break;
      case 2:
        narrow_pass<2>(part);
        break;
      case 3:
        narrow_pass<3>(part);
        break;
      default:
        narrow_pass<4>(part);
        break;
    }
    return part;
  });
}

/// Up to 64 rows against a K block, vector after vector. Returns where `next` has come to.
static const std::byte* tall_product(const ProductTask& task, std::size_t row, std::size_t m,
                                     TilePass pass, TileShape& shape) {
  const std::byte* const panel = pass.panel;
  pass.rows += row * task.row_bytes;
  pass.out += row * kPanelColumns;
  float* const out = pass.out;
  for (std::size_t vec = 0; vec < task.vecs; ++vec) {
    pass.panel = panel + vec * kLineBytes;
    pass.out = out + vec * kVector;
    const TilePass after = whole_and_rest(pass, true, m, shape, [&](const TilePass& part) {
      switch ((m - 1) / kTileRows) {
        case 0:
          return tall_pass<1>(part);
        case 1:
          return tall_pass<2>(part);
        case 2:
          return tall_pass<3>(part);
        default:
          return tall_pass<4>(part);
      }
    });
    pass.next = after.next;
  }
  return pass.next;
}

static void product_tiles(const ProductTask& task) {
  const auto* panel = static_cast<const std::byte*>(task.panel);
  const std::size_t pair_bytes = task.vecs * kLineBytes;
  TileShape shape;
  TilePass pass{.rows = task.rows,
                .row_bytes = task.row_bytes,
                .panel = panel,
                .pair_bytes = pair_bytes,
                .begin = 0,
                .end = task.pairs,
                .out = task.out};
  if (task.m <= kTileRows) {
    pass.lines_a_step = kTilePairs * task.vecs;
    pass.next = panel + kTileStepsAhead * pass.lines_a_step * kLineBytes;
    pass.turn = panel + task.pairs * pair_bytes;
    pass.then = task.next_panel;
    if (task.m == 1) return few_rows_by_vecs<1>(task, pass);
    if (task.m == 2) return few_rows_by_vecs<2>(task, pass);
    narrow_product(task, pass, shape);
    _tile_release();
    return;
  }
  // Groups of equal size: of 80 rows 48 and 32.
  const std::size_t tiles = (task.m + kTileRows - 1) / kTileRows;
  const std::size_t groups = (tiles + kTallTiles - 1) / kTallTiles;
  const std::size_t group_rows = (tiles + groups - 1) / groups * kTileRows;
  const std::size_t block = groups == 1 ? kOneGroupPairs : kMoreGroupsPairs;
  // A step of all tiles and vectors asks for as much as it reads.
  pass.lines_a_step = (kTilePairs + tiles - 1) / tiles;
  for (pass.begin = 0; pass.begin < task.pairs; pass.begin = pass.end) {
    pass.end = pass.begin + block < task.pairs ? pass.begin + block : task.pairs;
    pass.next = pass.end < task.pairs ? panel + pass.end * pair_bytes : task.next_panel;
    for (std::size_t row = 0; row < task.m; row += group_rows) {
      const std::size_t m = task.m - row < group_rows ? task.m - row : group_rows;
      pass.next = tall_product(task, row, m, pass, shape);
    }
  }
  _tile_release();
}
