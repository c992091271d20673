// Matrix product over one weight panel. A tile of up to kRowsMax rows x 64 columns stays in
// registers while K runs in order, pairs ascending, odd k first (the order of vdpbf16ps), so an
// output element sees the same sequence of operations whatever the number of rows. When several
// row tiles use the panel, K is cut into blocks that fit the first-level cache and the sums rest in
// the float32 output between blocks, which does not change their bits.
//
// Traffic: with few rows every weight byte is read from memory once and nothing else matters; with
// many rows a panel block is read from memory once and then from L1 for every row tile.

struct RowsF32PanelBf16 {
  using Row = float;
  using Panel = std::uint32_t;
  static constexpr std::size_t kPanelPair = 1;  // panel elements of one column and pair
  static constexpr std::size_t kRowPair = 2;    // row elements of one pair
  static constexpr bool kHoldPanel = false;
  using Weights = VecPair;
  static inline Weights weights(const Panel* p, std::size_t) { return load_pairs(p); }
  static inline Vec step(Vec sum, const Row* a, const Weights& w) {
    return fma(set1(a[0]), w.even, fma(set1(a[1]), w.odd, sum));
  }
};

struct RowsF32PanelF32 {
  using Row = float;
  using Panel = float;
  static constexpr std::size_t kPanelPair = 2;
  static constexpr std::size_t kRowPair = 2;
  static constexpr bool kHoldPanel = false;
  using Weights = VecPair;
  static inline Weights weights(const Panel* p, std::size_t columns) {
    return {load(p), load(p + columns)};
  }
  static inline Vec step(Vec sum, const Row* a, const Weights& w) {
    return fma(set1(a[0]), w.even, fma(set1(a[1]), w.odd, sum));
  }
};

#ifdef FULGUR_KERNEL_BF16
struct RowsBf16PanelBf16 {
  using Row = std::uint32_t;
  using Panel = std::uint32_t;
  static constexpr std::size_t kPanelPair = 1;
  static constexpr std::size_t kRowPair = 1;
  static constexpr bool kHoldPanel = true;
  using Weights = __m512i;
  static inline Weights weights(const Panel* p, std::size_t) { return _mm512_loadu_si512(p); }
  static inline Vec step(Vec sum, const Row* a, const Weights& w) {
    const __m512i pair = _mm512_set1_epi32(static_cast<int>(*a));
    return {_mm512_dpbf16_ps(sum.v, (__m512bh)pair, (__m512bh)w)};
  }
};
#endif

/// Bytes ahead of its position that a lone tile asks for: memory latency times what a core reads;
/// pages end the hardware's own prefetch.
static constexpr std::size_t kStreamAhead = 4096;
static constexpr int kPrefetchLevel = 2;  // the second-level cache

/// One tile: rows a[0..MR), columns [0, 16 NV) of the panel, pairs [begin, end). Each pair asks for
/// LINES cache lines from `next` on.
template <class Op, int MR, int NV, int LINES>
static inline void product_tile(const std::byte* rows, std::size_t row_bytes, std::size_t begin,
                                std::size_t end, const typename Op::Panel* panel,
                                std::size_t columns, const std::byte* next, float* out) {
  const typename Op::Row* a[MR];
  Vec sum[MR][NV];
#pragma GCC unroll 8
  for (int r = 0; r < MR; ++r) {
    a[r] =
        reinterpret_cast<const typename Op::Row*>(rows + static_cast<std::size_t>(r) * row_bytes);
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) {
      sum[r][v] = begin == 0 ? zero() : load(out + r * kPanelColumns + v * kVector);
    }
  }
  const std::size_t step = columns * Op::kPanelPair;
  panel += begin * step;
  for (std::size_t k = begin; k < end; ++k, panel += step, next += LINES * kLineBytes) {
#pragma GCC unroll 4
    for (int i = 0; i < LINES; ++i) __builtin_prefetch(next + i * kLineBytes, 0, kPrefetchLevel);
    if constexpr (Op::kHoldPanel) {
      typename Op::Weights w[NV];
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v) w[v] = Op::weights(panel + v * kVector, columns);
#pragma GCC unroll 8
      for (int r = 0; r < MR; ++r) {
#pragma GCC unroll 4
        for (int v = 0; v < NV; ++v) sum[r][v] = Op::step(sum[r][v], a[r] + k * Op::kRowPair, w[v]);
      }
    } else {
#pragma GCC unroll 4
      for (int v = 0; v < NV; ++v) {
        const typename Op::Weights w = Op::weights(panel + v * kVector, columns);
#pragma GCC unroll 8
        for (int r = 0; r < MR; ++r) sum[r][v] = Op::step(sum[r][v], a[r] + k * Op::kRowPair, w);
      }
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < MR; ++r) {
#pragma GCC unroll 4
    for (int v = 0; v < NV; ++v) store(out + r * kPanelColumns + v * kVector, sum[r][v]);
  }
}

template <class Op, int MR, int LINES>
static void product_rows(const std::byte* rows, std::size_t row_bytes, std::size_t begin,
                         std::size_t end, const typename Op::Panel* panel, std::size_t vecs,
                         const std::byte* next, float* out) {
  constexpr int kGroup = vectors_for(MR);
  const std::size_t columns = vecs * kVector;
  std::size_t v = 0;
  for (; v + kGroup <= vecs; v += kGroup) {
    product_tile<Op, MR, kGroup, LINES>(rows, row_bytes, begin, end, panel + v * kVector, columns,
                                        next, out + v * kVector);
  }
  for (; v < vecs; ++v) {
    product_tile<Op, MR, 1, LINES>(rows, row_bytes, begin, end, panel + v * kVector, columns, next,
                                   out + v * kVector);
  }
}

/// Pairs of a K block: 64 columns of it take 32 KiB.
static constexpr std::size_t kBlockPairs = 128;

/// All row tiles over all K blocks. The next block is asked for by the first tiles of a block,
/// LINES of its four lines a pair each, so that memory works while the tiles compute.
template <class Op, int LINES>
static void product_blocks(const ProductTask& task, std::size_t tiles) {
  using Panel = typename Op::Panel;
  const auto* panel = static_cast<const Panel*>(task.panel);
  const std::size_t pair_bytes = task.vecs * kVector * Op::kPanelPair * sizeof(Panel);
  const std::size_t block = tiles > 1 ? kBlockPairs / Op::kPanelPair : task.pairs;
  for (std::size_t begin = 0; begin < task.pairs; begin += block) {
    const std::size_t end = begin + block < task.pairs ? begin + block : task.pairs;
    const auto* here = reinterpret_cast<const std::byte*>(panel) + begin * pair_bytes;
    const auto* after = end < task.pairs ? here + block * pair_bytes : task.next_panel;
    std::size_t row = 0;
    for (std::size_t tile = 0; tile < tiles; ++tile) {
      // Rows are spread evenly over the tiles: 8 rows run as 4 + 4, not 6 + 2.
      const std::size_t count = (task.m - row + tiles - tile - 1) / (tiles - tile);
      float* out = task.out + row * kPanelColumns;
      const std::byte* next = tiles == 1         ? here + kStreamAhead
                              : tile * LINES < 4 ? after + tile * LINES * block * kLineBytes
                                                 : here;
      const auto run = [&](auto kernel) {
        kernel(task.rows + row * task.row_bytes, task.row_bytes, begin, end, panel, task.vecs, next,
               out);
      };
      switch (count) {
        case 1:
          run(product_rows<Op, 1, LINES>);
          break;
        case 2:
          run(product_rows<Op, 2, LINES>);
          break;
        case 3:
          run(product_rows<Op, 3, LINES>);
          break;
        case 4:
          run(product_rows<Op, 4, LINES>);
          break;
#if FULGUR_KERNEL_ROWS > 4
        case 5:
          run(product_rows<Op, 5, LINES>);
          break;
        case 6:
          run(product_rows<Op, 6, LINES>);
          break;
#endif
        default:
          break;
      }
      row += count;
    }
  }
}

template <class Op>
static void product(const ProductTask& task) {
  const std::size_t tiles = (task.m + kRowsMax - 1) / kRowsMax;
  if (tiles == 1) {
    product_blocks<Op, 4>(task, tiles);
  } else if (tiles < 4) {
    product_blocks<Op, 2>(task, tiles);
  } else {
    product_blocks<Op, 1>(task, tiles);
  }
}
