// Matrix product over one weight panel by AMX: tdpbf16ps adds 32 k of up to 16 rows x 16 columns in
// the order ProductOrder::tiles, whatever rows and columns stand beside an element. A panel lies in
// memory as its B operand wants it: [16 pairs][16 columns][2] is a tile, 16 rows one pair apart.
//
// Up to 16 rows: all four vectors of the panel pass beside one tile of rows, so that memory is read
// front to back, once, and asked for ahead. More rows: two tiles of rows x two vectors, one load a
// multiplication. Then K is cut into blocks and a block's half panel stays in the first-level cache
// for all rows; the sums rest in the float32 output between blocks, which does not change their
// bits.
//
// A pass asks for what it is about to read itself, two steps ahead, into the first-level cache.
// Asking for the next block instead, into the second level, cost 18 % of the time at 32 rows and 12
// % at 64: those lines need a line buffer twice, and tiles wait for line buffers.

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
/// Pairs of a K block of more than one pass: half a panel of it takes 32 KiB.
static constexpr std::size_t kTileBlockPairs = 256;
/// Steps of 16 pairs ahead of its position that a pass asks for, into the first-level cache: what
/// it holds is two steps of up to 4 KiB.
static constexpr std::size_t kTileStepsAhead = 2;
static constexpr int kTilePrefetchLevel = 3;

/// Rows [first, first + 16 or 32) against K pairs [begin, end) of the panel.
struct TilePass {
  const std::byte* rows;
  std::size_t row_bytes;
  const std::byte* panel;  ///< at its first vector
  std::size_t pair_bytes;
  std::size_t begin, end;
  float* out;
  const std::byte* next = nullptr;  ///< what memory is asked for, step by step
  std::size_t lines_a_step = 0;     ///< of it
  bool first = false;               ///< of the rows that pass here: the panel is not cached yet
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
  void ask(std::size_t lines) {
    for (std::size_t i = 0; i < lines; ++i, next += kLineBytes) {
      __builtin_prefetch(next, 0, kTilePrefetchLevel);
    }
  }
  /// The panel's first `vecs` vectors of a step.
  void ask_for(int vecs, std::size_t pair) const {
    for (std::size_t i = 0; i < kTilePairs; ++i) {
      for (int v = 0; v < vecs; ++v) {
        __builtin_prefetch(b(static_cast<std::size_t>(v), pair + i), 0, kTilePrefetchLevel);
      }
    }
  }
};

// Registers: 0-3 sums; one tile of rows: 4 rows, 5-7 panel; two: 4 and 5 rows, 6 and 7 panel. A
// step takes `pairs` pairs, 16 but for the last of an odd K.

/// What the registers are configured for; a new configuration clears them and takes its time.
class TileShape {
 public:
  /// m: rows, 1 to 32.
  void set(std::size_t m, std::size_t pairs) {
    if (m == m_ && pairs == pairs_) return;
    m_ = m;
    pairs_ = pairs;
    const bool wide = m > kTileRows;
    const std::size_t first = wide ? kTileRows : m;
    const std::size_t second = wide ? m - kTileRows : m;
    const std::size_t rows[8] = {first, first, second, second, first, wide ? second : pairs,
                                 pairs, pairs};
    TileConfig config;
    for (int t = 0; t < 8; ++t) {
      const bool of_rows = t == 4 || (t == 5 && wide);
      config.column_bytes[t] = of_rows ? static_cast<std::uint16_t>(pairs * 4) : kLineBytes;
      config.rows[t] = static_cast<std::uint8_t>(rows[t]);
    }
    // GCC's intrinsic tells the compiler of the first eight bytes only.
    asm volatile("" ::"r"(&config) : "memory");
    _tile_loadconfig(&config);
  }

 private:
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
    pass.ask(share);
    _tile_dpbf16ps(0, 4, 5);
    if constexpr (NV > 1) {
      _tile_loadd(6, pass.b(1, pair), pass.pair_bytes);
      pass.ask(share);
      _tile_dpbf16ps(1, 4, 6);
    }
    if constexpr (NV > 2) {
      _tile_loadd(7, pass.b(2, pair), pass.pair_bytes);
      pass.ask(share);
      _tile_dpbf16ps(2, 4, 7);
    }
    if constexpr (NV > 3) {
      _tile_loadd(5, pass.b(3, pair), pass.pair_bytes);
      pass.ask(share);
      _tile_dpbf16ps(3, 4, 5);
    }
    if (pass.next == pass.turn) pass.next = pass.then;
  }
  _tile_stored(0, pass.c(0, 0), kOutBytes);
  if constexpr (NV > 1) _tile_stored(1, pass.c(0, 1), kOutBytes);
  if constexpr (NV > 2) _tile_stored(2, pass.c(0, 2), kOutBytes);
  if constexpr (NV > 3) _tile_stored(3, pass.c(0, 3), kOutBytes);
}

/// NV: of two vectors.
template <int NV>
static inline void wide_pass(TilePass pass) {
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
    if (pass.first) pass.ask_for(NV, pair + kTileStepsAhead * kTilePairs);
    _tile_loadd(6, pass.b(0, pair), pass.pair_bytes);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(5, pass.a(1, pair), pass.row_bytes);
    _tile_dpbf16ps(2, 5, 6);
    if constexpr (NV > 1) {
      _tile_loadd(7, pass.b(1, pair), pass.pair_bytes);
      _tile_dpbf16ps(1, 4, 7);
      _tile_dpbf16ps(3, 5, 7);
    }
  }
  _tile_stored(0, pass.c(0, 0), kOutBytes);
  _tile_stored(2, pass.c(1, 0), kOutBytes);
  if constexpr (NV > 1) {
    _tile_stored(1, pass.c(0, 1), kOutBytes);
    _tile_stored(3, pass.c(1, 1), kOutBytes);
  }
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
        __builtin_prefetch(pass.next, 0, kTilePrefetchLevel);
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

/// Whole steps, then what is left of an odd K in a shape of its own.
template <class Run>
static inline void whole_and_rest(TilePass pass, std::size_t m, TileShape& shape, const Run& run) {
  const std::size_t end = pass.end;
  const std::size_t rest = (end - pass.begin) % kTilePairs;
  pass.end = end - rest;
  if (pass.end > pass.begin) {
    shape.set(m, kTilePairs);
    run(pass);
  }
  if (rest == 0) return;
  pass.begin = pass.end;
  pass.end = end;
  shape.set(m, rest);
  run(pass);
}

static void narrow_product(const ProductTask& task, std::size_t row, std::size_t m, TilePass pass,
                           TileShape& shape) {
  pass.rows += row * task.row_bytes;
  pass.out += row * kPanelColumns;
  whole_and_rest(pass, m, shape, [&](const TilePass& part) {
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
  });
}

/// Vectors vec and, where the panel has it, vec + 1.
static void wide_product(const ProductTask& task, std::size_t row, std::size_t m, std::size_t vec,
                         TilePass pass, TileShape& shape) {
  pass.rows += row * task.row_bytes;
  pass.out += row * kPanelColumns + vec * kVector;
  pass.panel += vec * kLineBytes;
  whole_and_rest(pass, m, shape, [&](const TilePass& part) {
    if (vec + 1 < task.vecs) {
      wide_pass<2>(part);
    } else {
      wide_pass<1>(part);
    }
  });
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
    narrow_product(task, 0, task.m, pass, shape);
    _tile_release();
    return;
  }
  for (pass.begin = 0; pass.begin < task.pairs; pass.begin = pass.end) {
    pass.end =
        pass.begin + kTileBlockPairs < task.pairs ? pass.begin + kTileBlockPairs : task.pairs;
    for (std::size_t vec = 0; vec < task.vecs; vec += 2) {
      for (std::size_t row = 0; row < task.m; row += 2 * kTileRows) {
        const std::size_t m = task.m - row < 2 * kTileRows ? task.m - row : 2 * kTileRows;
        pass.first = row == 0;
        if (m > kTileRows) {
          wide_product(task, row, m, vec, pass, shape);
        } else if (vec == 0) {
          narrow_product(task, row, m, pass, shape);
        }
      }
    }
  }
  _tile_release();
}
