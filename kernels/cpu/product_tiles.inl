// Matrix product over one weight panel by AMX: tdpbf16ps adds 32 k of up to 16 rows x 16 columns in
// the order ProductOrder::tiles, whatever rows and columns stand beside an element. A panel lies in
// memory as its B operand wants it: [16 pairs][16 columns][2] is a tile, 16 rows one pair apart.
//
// Up to 16 rows: all four vectors of the panel pass beside one tile of rows, so that memory is read
// front to back, once, and asked for two steps ahead. What is asked for goes into the second-level
// cache; into the first it took 1.03 times as long (one or two rows, by plain vectors, aside).
//
// More rows: K is cut into blocks, and while a block is multiplied the next one is asked for as
// evenly as its multiplications go: memory and the tile unit work at the
// same time. (When the first rows read memory as they went and the others let it rest, experts of
// 40 rows took 1.6 times as long, of 64 1.2 times.) The sums rest in the float32 output between
// blocks, which does not change their bits. Up to three tiles of rows pass beside one vector, in
// the order of memory; of more, pairs of tiles pass beside two vectors, one load a multiplication,
// the fewest that eight registers allow: where the unit is throttled, a load costs as much as a
// multiplication.

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
/// Tiles of rows that pass beside one vector.
static constexpr std::size_t kTallTiles = 3;
/// Pairs of a K block: 32 KiB of a panel.
static constexpr std::size_t kTileBlockPairs = 128;
/// Steps of 16 pairs, up to 4 KiB each, ahead of its position that a narrow pass asks for.
static constexpr std::size_t kTileStepsAhead = 2;
static constexpr int kToFirstLevel = 3;
static constexpr int kToSecondLevel = 2;

/// Some tiles of rows against K pairs [begin, end) of the panel.
struct TilePass {
  const std::byte* rows;
  std::size_t row_bytes;
  const std::byte* panel;  ///< at its first vector
  std::size_t pair_bytes;
  std::size_t begin, end;
  float* out;
  const std::byte* next = nullptr;  ///< what memory is asked for, step by step
  std::size_t lines = 0;            ///< of it at each multiplication
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
  void ask() {
    for (std::size_t i = 0; i < lines; ++i, next += kLineBytes) {
      __builtin_prefetch(next, 0, kToSecondLevel);
    }
  }
};

/// What passes beside what. Registers: 0-3 sums, and
enum class TileForm : std::uint8_t {
  narrow,  ///< up to 16 rows, up to four vectors: 4 rows, 5-7 panel
  wide,    ///< 17 to 32 rows, up to two vectors: 4 and 5 rows, 6 and 7 panel
  tall,    ///< up to 48 rows, one vector: 4 and 5 rows, 7 the last tile of rows, 6 panel
};

/// What the registers are configured for; a new configuration clears them and takes its time.
class TileShape {
 public:
  /// m rows; a step takes `pairs` pairs, 16 but for the last of an odd K.
  void set(TileForm form, std::size_t m, std::size_t pairs) {
    if (form == form_ && m == m_ && pairs == pairs_) return;
    form_ = form;
    m_ = m;
    pairs_ = pairs;
    const std::size_t whole_tiles = form == TileForm::narrow ? 0 : (m - 1) / kTileRows;
    const std::size_t last = m - whole_tiles * kTileRows;
    TileConfig config;
    for (std::size_t t = 0; t < 8; ++t) {
      const bool of_rows =
          t == 4 || (t == 5 && form != TileForm::narrow) || (t == 7 && form == TileForm::tall);
      config.column_bytes[t] = of_rows ? static_cast<std::uint16_t>(pairs * 4) : kLineBytes;
      std::size_t rows = last;
      if (t > 3 && !of_rows) rows = pairs;
      if (form == TileForm::wide && (t < 2 || t == 4)) rows = kTileRows;
      if (form == TileForm::tall && (t < whole_tiles || t == 4 || t == 5)) rows = kTileRows;
      config.rows[t] = static_cast<std::uint8_t>(rows);
    }
    // GCC's intrinsic tells the compiler of the first eight bytes only.
    asm volatile("" ::"r"(&config) : "memory");
    _tile_loadconfig(&config);
  }

 private:
  TileForm form_ = TileForm::narrow;
  std::size_t m_ = 0;
  std::size_t pairs_ = 0;
};

template <int NV>
static inline TilePass narrow_pass(TilePass pass) {
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
  for (std::size_t pair = pass.begin; pair < pass.end; pair += kTilePairs) {
    _tile_loadd(4, pass.a(0, pair), pass.row_bytes);
    _tile_loadd(5, pass.b(0, pair), pass.pair_bytes);
    pass.ask();
    _tile_dpbf16ps(0, 4, 5);
    if constexpr (NV > 1) {
      _tile_loadd(6, pass.b(1, pair), pass.pair_bytes);
      pass.ask();
      _tile_dpbf16ps(1, 4, 6);
    }
    if constexpr (NV > 2) {
      _tile_loadd(7, pass.b(2, pair), pass.pair_bytes);
      pass.ask();
      _tile_dpbf16ps(2, 4, 7);
    }
    if constexpr (NV > 3) {
      _tile_loadd(5, pass.b(3, pair), pass.pair_bytes);
      pass.ask();
      _tile_dpbf16ps(3, 4, 5);
    }
    if (pass.next == pass.turn) pass.next = pass.then;
  }
  _tile_stored(0, pass.c(0, 0), kOutBytes);
  if constexpr (NV > 1) _tile_stored(1, pass.c(0, 1), kOutBytes);
  if constexpr (NV > 2) _tile_stored(2, pass.c(0, 2), kOutBytes);
  if constexpr (NV > 3) _tile_stored(3, pass.c(0, 3), kOutBytes);
  return pass;
}

/// NV: of two vectors.
template <int NV>
static inline TilePass wide_pass(TilePass pass) {
  if (pass.begin == 0) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  } else {
    _tile_loadd(0, pass.c(0, 0), kOutBytes);
    _tile_loadd(2, pass.c(1, 0), kOutBytes);
    if constexpr (NV > 1) {
      _tile_loadd(1, pass.c(0, 1), kOutBytes);
      _tile_loadd(3, pass.c(1, 1), kOutBytes);
    }
  }
  for (std::size_t pair = pass.begin; pair < pass.end; pair += kTilePairs) {
    _tile_loadd(4, pass.a(0, pair), pass.row_bytes);
    _tile_loadd(6, pass.b(0, pair), pass.pair_bytes);
    pass.ask();
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(5, pass.a(1, pair), pass.row_bytes);
    pass.ask();
    _tile_dpbf16ps(2, 5, 6);
    if constexpr (NV > 1) {
      _tile_loadd(7, pass.b(1, pair), pass.pair_bytes);
      pass.ask();
      _tile_dpbf16ps(1, 4, 7);
      pass.ask();
      _tile_dpbf16ps(3, 5, 7);
    }
  }
  _tile_stored(0, pass.c(0, 0), kOutBytes);
  _tile_stored(2, pass.c(1, 0), kOutBytes);
  if constexpr (NV > 1) {
    _tile_stored(1, pass.c(0, 1), kOutBytes);
    _tile_stored(3, pass.c(1, 1), kOutBytes);
  }
  return pass;
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
  pass.ask();
  if constexpr (kTile == 0 && kLast) _tile_dpbf16ps(0, 7, 6);
  if constexpr (kTile == 0 && !kLast) _tile_dpbf16ps(0, 4, 6);
  if constexpr (kTile == 1 && kLast) _tile_dpbf16ps(1, 7, 6);
  if constexpr (kTile == 1 && !kLast) _tile_dpbf16ps(1, 5, 6);
  if constexpr (kTile == 2) _tile_dpbf16ps(2, 7, 6);
}

/// kTiles tiles of rows x one vector. Returns the pass with `next` moved on.
template <int kTiles>
static inline TilePass tall_pass(TilePass pass) {
  if (pass.begin == 0) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
  } else {
    _tile_loadd(0, pass.c(0, 0), kOutBytes);
    if constexpr (kTiles > 1) _tile_loadd(1, pass.c(1, 0), kOutBytes);
    if constexpr (kTiles > 2) _tile_loadd(2, pass.c(2, 0), kOutBytes);
  }
  for (std::size_t pair = pass.begin; pair < pass.end; pair += kTilePairs) {
    _tile_loadd(6, pass.b(0, pair), pass.pair_bytes);
    tall_multiply<0, kTiles>(pass, pair);
    if constexpr (kTiles > 1) tall_multiply<1, kTiles>(pass, pair);
    if constexpr (kTiles > 2) tall_multiply<2, kTiles>(pass, pair);
  }
  _tile_stored(0, pass.c(0, 0), kOutBytes);
  if constexpr (kTiles > 1) _tile_stored(1, pass.c(1, 0), kOutBytes);
  if constexpr (kTiles > 2) _tile_stored(2, pass.c(2, 0), kOutBytes);
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
static inline TilePass whole_and_rest(TilePass pass, TileForm form, std::size_t m, TileShape& shape,
                                      const Run& run) {
  const std::size_t end = pass.end;
  const std::size_t rest = (end - pass.begin) % kTilePairs;
  pass.end = end - rest;
  if (pass.end > pass.begin) {
    shape.set(form, m, kTilePairs);
    pass = run(pass);
  }
  if (rest == 0) return pass;
  pass.begin = pass.end;
  pass.end = end;
  shape.set(form, m, rest);
  return run(pass);
}

/// All vectors of the panel beside up to 16 rows.
static void narrow_product(const ProductTask& task, const TilePass& pass, TileShape& shape) {
  whole_and_rest(pass, TileForm::narrow, task.m, shape, [&](const TilePass& part) {
    switch (task.vecs) {
      case 1:
        return narrow_pass<1>(part);
      case 2:
        return narrow_pass<2>(part);
      case 3:
        return narrow_pass<3>(part);
      default:
        return narrow_pass<4>(part);
    }
  });
}

/// Two vectors of the panel after two beside 17 to 32 rows. Returns what to ask for next.
static const std::byte* wide_product(std::size_t vecs, std::size_t m, TilePass pass,
                                     TileShape& shape) {
  for (std::size_t vec = 0; vec < vecs; vec += 2) {
    const auto after = whole_and_rest(pass, TileForm::wide, m, shape, [&](const TilePass& part) {
      return vec + 1 < vecs ? wide_pass<2>(part) : wide_pass<1>(part);
    });
    pass.next = after.next;
    pass.panel += 2 * kLineBytes;
    pass.out += 2 * kVector;
  }
  return pass.next;
}

/// One vector of the panel after the other beside up to 48 rows. Returns as above.
static const std::byte* tall_product(std::size_t vecs, std::size_t m, TilePass pass,
                                     TileShape& shape) {
  for (std::size_t vec = 0; vec < vecs; ++vec) {
    const auto after = whole_and_rest(pass, TileForm::tall, m, shape, [&](const TilePass& part) {
      switch ((m - 1) / kTileRows) {
        case 0:
          return tall_pass<1>(part);
        case 1:
          return tall_pass<2>(part);
        default:
          return tall_pass<3>(part);
      }
    });
    pass.next = after.next;
    pass.panel += kLineBytes;
    pass.out += kVector;
  }
  return pass.next;
}

static void product_tiles(const ProductTask& task) {
  const auto* panel = static_cast<const std::byte*>(task.panel);
  const std::size_t pair_bytes = task.vecs * kLineBytes;
  const std::size_t tiles = (task.m + kTileRows - 1) / kTileRows;
  TileShape shape;
  TilePass pass{.rows = task.rows,
                .row_bytes = task.row_bytes,
                .panel = panel,
                .pair_bytes = pair_bytes,
                .begin = 0,
                .end = task.pairs,
                .out = task.out,
                // All tiles' multiplications together ask for as much as they read.
                .lines = (kTilePairs + tiles - 1) / tiles};
  if (tiles == 1) {
    pass.next = panel + kTileStepsAhead * kTilePairs * pair_bytes;
    pass.turn = panel + task.pairs * pair_bytes;
    pass.then = task.next_panel;
    if (task.m == 1) return few_rows_by_vecs<1>(task, pass);
    if (task.m == 2) return few_rows_by_vecs<2>(task, pass);
    narrow_product(task, pass, shape);
    _tile_release();
    return;
  }
  for (pass.begin = 0; pass.begin < task.pairs; pass.begin = pass.end) {
    pass.end =
        pass.begin + kTileBlockPairs < task.pairs ? pass.begin + kTileBlockPairs : task.pairs;
    pass.next = pass.end < task.pairs ? panel + pass.end * pair_bytes : task.next_panel;
    TilePass part = pass;
    for (std::size_t row = 0; row < task.m;) {
      const std::size_t left = task.m - row;
      const bool tall = left <= kTallTiles * kTileRows && (tiles <= kTallTiles || tiles % 2 != 0);
      const std::size_t m = tall || left < 2 * kTileRows ? left : 2 * kTileRows;
      part.next =
          tall ? tall_product(task.vecs, m, part, shape) : wide_product(task.vecs, m, part, shape);
      part.rows += m * task.row_bytes;
      part.out += m * kPanelColumns;
      row += m;
    }
  }
  _tile_release();
}
