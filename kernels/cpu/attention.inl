// Lightning and softmax attention on blocks of 64 positions. Both are chains of small products
// C += A · B with K in ascending order, on one register tile: queries x state, queries x keys,
// weights x values. Keys lie transposed in tiles of 16 tokens, [64 / 16][dim][16], so that a dot
// over dims runs in order with 16 tokens in the lanes; values lie [64][padded dim].
//
// Causality: rows of a tile see different numbers of tokens. Tokens all rows see go through the
// tile; the few a later row sees besides are added row by row, in order. Nothing beyond a row's own
// position is ever read into it.

/// Memory to ask for while a product runs: LINES cache lines from `next` on for each k.
static constexpr int kNoLines = 0;
static constexpr int kBlockLines = 2;  // keys or values of the next page, spread over this one's
static constexpr int kStateLines = 8;  // a lightning state, as fast as it is read
static constexpr std::size_t kStateAhead = 4096;

template <class T, int LINES, int MR, int NV>
static inline void accumulate_tile(const float* a, std::size_t lda, std::size_t count, const T* b,
                                   std::size_t vector_stride, std::size_t k_stride, bool first,
                                   float* c, std::size_t ldc, const std::byte* next) {
  Vec sum[MR][NV];
#pragma GCC unroll 8
  for (int r = 0; r < MR; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) sum[r][v] = first ? zero() : load(c + r * ldc + v * kVector);
  }
  for (std::size_t k = 0; k < count; ++k, b += k_stride, next += LINES * kLineBytes) {
#pragma GCC unroll 8
    for (int i = 0; i < LINES; ++i) __builtin_prefetch(next + i * kLineBytes);
    Vec w[NV];
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) w[v] = load(b + v * vector_stride);
#pragma GCC unroll 8
    for (int r = 0; r < MR; ++r) {
      const Vec x = set1(a[r * lda + k]);
#pragma GCC unroll 8
      for (int v = 0; v < NV; ++v) sum[r][v] = fma(x, w[v], sum[r][v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < MR; ++r) {
#pragma GCC unroll 8
    for (int v = 0; v < NV; ++v) store(c + r * ldc + v * kVector, sum[r][v]);
  }
}

template <class T, int LINES, int MR>
static void accumulate_rows(const float* a, std::size_t lda, std::size_t count, const T* b,
                            std::size_t vector_stride, std::size_t k_stride, std::size_t vecs,
                            bool first, float* c, std::size_t ldc, const std::byte* next) {
  constexpr int kGroup = wide_vectors_for(MR);
  std::size_t v = 0;
  for (; v + kGroup <= vecs; v += kGroup) {
    accumulate_tile<T, LINES, MR, kGroup>(a, lda, count, b + v * vector_stride, vector_stride,
                                          k_stride, first, c + v * kVector, ldc, next);
    next += LINES * kLineBytes * count;
  }
  if constexpr (kGroup > 4) {
    for (; v + 4 <= vecs; v += 4) {
      accumulate_tile<T, LINES, MR, 4>(a, lda, count, b + v * vector_stride, vector_stride,
                                       k_stride, first, c + v * kVector, ldc, next);
      next += LINES * kLineBytes * count;
    }
  }
  for (; v < vecs; ++v) {
    accumulate_tile<T, kNoLines, MR, 1>(a, lda, count, b + v * vector_stride, vector_stride,
                                        k_stride, first, c + v * kVector, ldc, next);
  }
}

/// c [rows, 16 vecs] (+)= a [rows, count] · b for 1 <= rows <= kRowsMax. Element (k, 16 v + lane)
/// of b is at v * vector_stride + k * k_stride + lane.
template <class T, int LINES = kNoLines>
static void accumulate(std::size_t rows, const float* a, std::size_t lda, std::size_t count,
                       const T* b, std::size_t vector_stride, std::size_t k_stride,
                       std::size_t vecs, bool first, float* c, std::size_t ldc,
                       const std::byte* next = nullptr) {
  const auto call = [&](auto kernel) {
    kernel(a, lda, count, b, vector_stride, k_stride, vecs, first, c, ldc, next);
  };
  switch (rows) {
    case 1:
      return call(accumulate_rows<T, LINES, 1>);
    case 2:
      return call(accumulate_rows<T, LINES, 2>);
    case 3:
      return call(accumulate_rows<T, LINES, 3>);
    case 4:
      return call(accumulate_rows<T, LINES, 4>);
#if FULGUR_KERNEL_ROWS > 4
    case 5:
      return call(accumulate_rows<T, LINES, 5>);
    case 6:
      return call(accumulate_rows<T, LINES, 6>);
#endif
    default:
      return;
  }
}

/// Calls f(first row, rows) for tiles of at most kRowsMax rows, spread evenly.
template <class F>
static inline void for_tiles(std::size_t rows, F f) {
  const std::size_t tiles = (rows + kRowsMax - 1) / kRowsMax;
  std::size_t row = 0;
  for (std::size_t tile = 0; tile < tiles; ++tile) {
    const std::size_t count = (rows - row + tiles - tile - 1) / (tiles - tile);
    f(row, count);
    row += count;
  }
}

/// c [rows, padded] += weights · values where row r sees seen(r) tokens, never fewer than row r
/// - 1.
template <class T, int LINES, class Seen>
static inline void add_values(std::size_t rows, const float* weights, std::size_t ldw,
                              const T* values, std::size_t pad, Seen seen, bool first, float* c,
                              const std::byte* next) {
  const std::size_t vecs = pad / kVector;
  const std::size_t common = seen(0);
  accumulate<T, LINES>(rows, weights, ldw, common, values, kVector, pad, vecs, first, c, pad, next);
  for (std::size_t r = 1; r < rows; ++r) {
    if (seen(r) == common) continue;
    accumulate<T>(1, weights + r * ldw + common, ldw, seen(r) - common, values + common * pad,
                  kVector, pad, vecs, false, c + r * pad, pad);
  }
}

template <class T>
static void store_key(const float* key, std::size_t dim, std::size_t token, T* keys) {
  T* column = keys + token / kVector * dim * kVector + token % kVector;
  for (std::size_t d = 0; d < dim; d += kVector) {
    T rounded[kVector];
    store(rounded, load_n(key + d, lanes_left(dim, d)));
    const std::size_t n = lanes_left(dim, d);
    for (std::size_t i = 0; i < n; ++i) column[(d + i) * kVector] = rounded[i];
  }
}

template <class T>
static void store_value(const float* value, std::size_t dim, std::size_t token, T* values) {
  const std::size_t pad = padded_dim(dim);
  for (std::size_t d = 0; d < dim; d += kVector) {
    store(values + token * pad + d, load_n(value + d, lanes_left(dim, d)));
  }
}

/// Rows from which on a block's bf16 keys and values are widened once rather than for every tile:
/// a widening vector takes two of the slots that multiply-adds need.
static constexpr std::size_t kWidenRows = 3 * kRowsMax;

/// The first `tokens` tokens of a block's keys as float32, in whole vectors of tokens.
static inline void widen_keys(const std::uint16_t* keys, std::size_t dim, std::size_t tokens,
                              float* out) {
  const std::size_t count = (tokens + kVector - 1) / kVector * dim * kVector;
  for (std::size_t i = 0; i < count; i += kVector) store(out + i, load(keys + i));
}

static inline void widen_values(const std::uint16_t* values, std::size_t pad, std::size_t tokens,
                                float* out) {
  for (std::size_t i = 0; i < tokens * pad; i += kVector) store(out + i, load(values + i));
}

// ---- lightning ----

template <class T>
struct LightningHead {
  float* state;  // [dim (key), padded dim (value)]
  T* keys;       // [64 / 16][dim][16]
  T* values;     // [64][padded dim]
};

static constexpr std::size_t kTokensAhead = 4;

/// SiLU of the tokens' q into scratch and of k, v into the open block.
template <class T>
static void lightning_load(const LightningTask& t, const LightningHead<T>& head, const float* qkv,
                           std::size_t first, std::size_t rows, float* q) {
  const std::size_t pad = padded_dim(t.dim);
  float* key = q + kBlockTokens * pad;  // the output tile's space, not yet in use
  float* value = key + pad;
  for (std::size_t r = 0; r < rows; ++r, qkv += t.qkv_stride) {
    for (std::size_t d = 0; d < t.dim; d += kVector) {
      const std::size_t n = lanes_left(t.dim, d);
      // Tokens lie far apart, each on a page of its own, which hardware does not foresee.
      const float* later = qkv + kTokensAhead * t.qkv_stride + d;
      __builtin_prefetch(later);
      __builtin_prefetch(later + t.dim);
      __builtin_prefetch(later + 2 * t.dim);
      store(q + r * pad + d, silu_vec(load_n(qkv + d, n)));
      store(key + d, silu_vec(load_n(qkv + t.dim + d, n)));
      store(value + d, silu_vec(load_n(qkv + 2 * t.dim + d, n)));
    }
    store_key(key, t.dim, first + r, head.keys);
    store_value(value, t.dim, first + r, head.values);
  }
}

/// state = exp(-r B) state + sum over j ascending of exp(-r (B - 1 - j)) k_j v_jᵀ.
template <class T>
static void lightning_fold(const LightningTask& t, const LightningHead<T>& head, float* weights) {
  const std::size_t pad = padded_dim(t.dim);
  const float* reversed = t.decay + kDecayForward;
  for (std::size_t d = 0; d < t.dim; ++d) {
    for (std::size_t j = 0; j < kBlockTokens; j += kVector) {
      const Vec key = load(head.keys + (j / kVector * t.dim + d) * kVector);
      store(weights + d * kBlockTokens + j, mul(load(reversed + j), key));
    }
  }
  scale(head.state, t.decay[kBlockTokens], t.dim * pad, head.state);
  for_tiles(t.dim, [&](std::size_t row, std::size_t count) {
    accumulate<T>(count, weights + row * kBlockTokens, kBlockTokens, kBlockTokens, head.values,
                  kVector, pad, pad / kVector, false, head.state + row * pad, pad);
  });
}

/// Outputs of the open block's tokens [first, first + rows), whose k and v are in the block.
template <class T>
static void lightning_block(const LightningTask& t, const LightningHead<T>& head, const float* q,
                            std::size_t first, std::size_t rows, float* o, float* weights,
                            float* out) {
  const std::size_t pad = padded_dim(t.dim);
  const float* reversed = t.decay + kDecayForward;
  for_tiles(rows, [&](std::size_t row, std::size_t count) {
    const float* a = q + row * pad;
    float* c = o + row * pad;
    if (rows == 1) {
      const auto* ahead = reinterpret_cast<const std::byte*>(head.state) + kStateAhead;
      accumulate<float, kStateLines>(1, a, pad, t.dim, head.state, kVector, pad, pad / kVector,
                                     true, c, pad, ahead);
    } else {
      accumulate<float>(count, a, pad, t.dim, head.state, kVector, pad, pad / kVector, true, c,
                        pad);
    }
    const std::size_t tokens = first + row + count;
    const std::size_t vecs = (tokens + kVector - 1) / kVector;
    accumulate<T>(count, a, pad, t.dim, head.keys, t.dim * kVector, kVector, vecs, true, weights,
                  kBlockTokens);
    for (std::size_t r = 0; r < count; ++r) {
      const std::size_t i = first + row + r;
      scale(c + r * pad, t.decay[i + 1], pad, c + r * pad);
      for (std::size_t j = 0; j <= i; j += kVector) {
        float* w = weights + r * kBlockTokens + j;
        store(w, mul(load(w), load(reversed + (kBlockTokens - 1 - i) + j)));
      }
    }
    const auto seen = [&](std::size_t r) { return first + row + r + 1; };
    add_values<T, kNoLines>(count, weights, kBlockTokens, head.values, pad, seen, false, c,
                            nullptr);
    for (std::size_t r = 0; r < count; ++r) {
      for (std::size_t d = 0; d < t.dim; d += kVector) {
        store_n(out + (row + r) * t.out_stride + d, load(c + r * pad + d), lanes_left(t.dim, d));
      }
    }
  });
}

template <class T>
static void lightning(const LightningTask& t) {
  const std::size_t pad = padded_dim(t.dim);
  LightningHead<T> head;
  head.state = reinterpret_cast<float*>(t.slot);
  head.keys = reinterpret_cast<T*>(head.state + t.dim * pad);
  head.values = head.keys + kBlockTokens * t.dim;
  float* q = t.scratch;
  float* o = q + kBlockTokens * pad;
  float* weights = o + kBlockTokens * pad;
  float* fold_weights = weights + kBlockTokens * kBlockTokens;
  const LightningHead<float> wide{head.state, fold_weights + t.dim * kBlockTokens,
                                  fold_weights + 2 * t.dim * kBlockTokens};
  if (t.fresh) {
    for (std::size_t i = 0; i < t.dim * pad; i += kVector) store(head.state + i, zero());
  }
  std::size_t first = t.block_index;
  for (std::size_t done = 0; done < t.rows;) {
    const std::size_t open = kBlockTokens - first;
    const std::size_t rows = t.rows - done < open ? t.rows - done : open;
    lightning_load<T>(t, head, t.qkv + done * t.qkv_stride, first, rows, q);
    const auto compute = [&](const auto& block) {
      lightning_block(t, block, q, first, rows, o, weights, t.out + done * t.out_stride);
      if (first + rows == kBlockTokens) lightning_fold(t, block, fold_weights);
    };
    if constexpr (sizeof(T) < sizeof(float)) {
      if (rows >= kWidenRows) {
        widen_keys(head.keys, t.dim, first + rows, wide.keys);
        widen_values(head.values, pad, first + rows, wide.values);
        compute(wide);
      } else {
        compute(head);
      }
    } else {
      compute(head);
    }
    done += rows;
    first = (first + rows) % kBlockTokens;
  }
}

// ---- softmax ----

static void rotate(const float* x, std::size_t dim, std::size_t half, const float* cosine,
                   const float* sine, float factor, float* out) {
  const Vec f = set1(factor);
  for (std::size_t j = 0; j < half; j += kVector) {
    const std::size_t n = lanes_left(half, j);
    const Vec a = load_n(x + j, n), b = load_n(x + half + j, n);
    const Vec c = load_n(cosine + j, n), s = load_n(sine + j, n);
    store_n(out + j, mul(sub(mul(a, c), mul(b, s)), f), n);
    store_n(out + half + j, mul(add(mul(b, c), mul(a, s)), f), n);
  }
  for (std::size_t d = 2 * half; d < dim; d += kVector) {
    const std::size_t n = lanes_left(dim, d);
    store_n(out + d, mul(load_n(x + d, n), f), n);
  }
}

template <class T>
static void store_kv(const float* key, const float* value, std::size_t dim, std::size_t token,
                     std::byte* page) {
  T* keys = reinterpret_cast<T*>(page);
  store_key(key, dim, token, keys);
  store_value(value, dim, token, keys + kBlockTokens * dim);
}

/// scores -> exp(score - max) with max and sum of one row over its `seen` positions.
static void softmax_row(float* scores, std::size_t seen, float* row_max, float* row_sum) {
  Vec largest = load(scores);
  largest = first_lanes_or(largest, seen, set1(scores[0]));
  for (std::size_t j = kVector; j < seen; j += kVector) {
    largest = max(first_lanes_or(load(scores + j), seen - j, largest), largest);
  }
  *row_max = max_lanes(largest);
  const Vec shift = set1(*row_max);
  Vec sum = zero();
  for (std::size_t j = 0; j < seen; j += kVector) {
    const Vec weight = exp_vec(sub(load(scores + j), shift));
    store(scores + j, weight);
    sum = add(sum, first_lanes(weight, seen - j));
  }
  *row_sum = sum_lanes(sum);
}

template <class T>
static void softmax_split(const SoftmaxTask& t) {
  const std::size_t pad = padded_dim(t.dim);
  const auto seen = [&](std::size_t row) {
    const std::size_t n = t.valid + row / t.group;
    return n < kSplitTokens ? n : kSplitTokens;
  };
  const auto page_tokens = [](std::size_t n, std::size_t page) {
    const std::size_t begin = page * kBlockTokens;
    return n <= begin ? 0 : n - begin < kBlockTokens ? n - begin : kBlockTokens;
  };
  const std::size_t pages = (seen(t.rows - 1) + kBlockTokens - 1) / kBlockTokens;
  const auto keys_of = [&](std::size_t p) { return reinterpret_cast<const T*>(t.pages[p]); };
  const auto values_of = [&](std::size_t p) { return keys_of(p) + kBlockTokens * t.dim; };
  const bool widens = sizeof(T) < sizeof(float) && t.rows >= kWidenRows;
  for (std::size_t p = 0; p < pages; ++p) {
    const auto* next =
        reinterpret_cast<const std::byte*>(p + 1 < pages ? keys_of(p + 1) : values_of(0));
    const auto score = [&]<class K>(const K* keys) {
      for_tiles(t.rows, [&](std::size_t row, std::size_t count) {
        const std::size_t tokens = page_tokens(seen(row + count - 1), p);
        const std::size_t vecs = (tokens + kVector - 1) / kVector;
        const auto kernel = row == 0 ? accumulate<K, kBlockLines> : accumulate<K, kNoLines>;
        kernel(count, t.q + row * pad, pad, t.dim, keys, t.dim * kVector, kVector, vecs, true,
               t.scores + row * kSplitTokens + p * kBlockTokens, kSplitTokens, next);
      });
    };
    if constexpr (sizeof(T) < sizeof(float)) {
      if (widens) {
        widen_keys(keys_of(p), t.dim, page_tokens(seen(t.rows - 1), p), t.wide);
        score(static_cast<const float*>(t.wide));
        continue;
      }
    }
    score(keys_of(p));
  }
  for (std::size_t r = 0; r < t.rows; ++r) {
    softmax_row(t.scores + r * kSplitTokens, seen(r), t.max + r, t.sum + r);
  }
  for (std::size_t p = 0; p < pages; ++p) {
    const auto* next = reinterpret_cast<const std::byte*>(values_of(p + 1 < pages ? p + 1 : p));
    const auto weigh = [&]<class V>(const V* values) {
      for_tiles(t.rows, [&](std::size_t row, std::size_t count) {
        const auto tokens = [&](std::size_t r) { return page_tokens(seen(row + r), p); };
        const float* weights = t.scores + row * kSplitTokens + p * kBlockTokens;
        float* out = t.out + row * pad;
        if (row == 0) {
          add_values<V, kBlockLines>(count, weights, kSplitTokens, values, pad, tokens, p == 0, out,
                                     next);
        } else {
          add_values<V, kNoLines>(count, weights, kSplitTokens, values, pad, tokens, p == 0, out,
                                  next);
        }
      });
    };
    if constexpr (sizeof(T) < sizeof(float)) {
      if (widens) {
        widen_values(values_of(p), pad, page_tokens(seen(t.rows - 1), p), t.wide);
        weigh(static_cast<const float*>(t.wide));
        continue;
      }
    }
    weigh(values_of(p));
  }
}

static void softmax_merge(float* total_max, float* total_sum, float* total_out, float part_max,
                          float part_sum, const float* part_out, std::size_t pad) {
  const float largest = *total_max < part_max ? part_max : *total_max;
  alignas(64) float scales[kVector] = {*total_max - largest, part_max - largest};
  store(scales, exp_vec(load(scales)));
  *total_max = largest;
  *total_sum = *total_sum * scales[0] + part_sum * scales[1];
  const Vec a = set1(scales[0]), b = set1(scales[1]);
  for (std::size_t d = 0; d < pad; d += kVector) {
    store(total_out + d, add(mul(load(total_out + d), a), mul(load(part_out + d), b)));
  }
}
