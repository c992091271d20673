// Elementwise and row operations on the logical 16-lane vector.

static inline Vec exp_vec(Vec x) {
  x = min(set1(kExpHigh), max(set1(kExpLow), x));
  const Vec n = round_even(mul(x, set1(kLog2E)));
  Vec r = fma(n, set1(-kLn2High), x);
  r = fma(n, set1(-kLn2Low), r);
  Vec p = set1(kExp7);
  p = fma(p, r, set1(kExp6));
  p = fma(p, r, set1(kExp5));
  p = fma(p, r, set1(kExp4));
  p = fma(p, r, set1(kExp3));
  p = fma(p, r, set1(kExp2));
  p = add(fma(p, mul(r, r), r), set1(1.0F));
  return scale_by_power(p, n);
}
static inline Vec negated(Vec x) { return mul(x, set1(-1.0F)); }
static inline Vec sigmoid_vec(Vec x) {
  return div(set1(1.0F), add(set1(1.0F), exp_vec(negated(x))));
}
static inline Vec silu_vec(Vec x) { return div(x, add(set1(1.0F), exp_vec(negated(x)))); }

static inline std::size_t lanes_left(std::size_t count, std::size_t i) {
  return count - i < kVector ? count - i : kVector;
}

template <class Source>
static void pack_from(const Source* x, std::size_t count, RowFormat format, void* out) {
  const std::size_t even = count + (count & 1);
  for (std::size_t i = 0; i < count; i += kVector) {
    const Vec value = load_n(x + i, lanes_left(count, i));
    const std::size_t n = lanes_left(even, i);
    if (format == RowFormat::bf16) {
      store_n(static_cast<std::uint16_t*>(out) + i, value, n);
    } else {
      store_n(static_cast<float*>(out) + i,
              format == RowFormat::rounded ? rounded_to_bf16(value) : value, n);
    }
  }
}

static void pack_row(const void* x, bool x_is_bf16, std::size_t count, RowFormat format,
                     void* out) {
  if (x_is_bf16) {
    pack_from(static_cast<const std::uint16_t*>(x), count, format, out);
  } else {
    pack_from(static_cast<const float*>(x), count, format, out);
  }
}

static void store_tile(const float* tile, std::size_t m, std::size_t columns, bool to_bf16,
                       std::byte* out, std::size_t out_stride) {
  for (std::size_t r = 0; r < m; ++r, tile += kPanelColumns, out += out_stride) {
    for (std::size_t i = 0; i < columns; i += kVector) {
      const std::size_t n = lanes_left(columns, i);
      if (to_bf16) {
        store_n(reinterpret_cast<std::uint16_t*>(out) + i, load(tile + i), n);
      } else {
        store_n(reinterpret_cast<float*>(out) + i, load(tile + i), n);
      }
    }
  }
}

static void silu_tile(const float* tile, std::size_t m, std::size_t columns, RowFormat format,
                      std::byte* out, std::size_t out_stride) {
  for (std::size_t r = 0; r < m; ++r, tile += kPanelColumns, out += out_stride) {
    for (std::size_t i = 0; i < columns; i += kVector) {
      const Vec value = mul(silu_vec(load(tile + i)), load(tile + kPanelColumns / 2 + i));
      const std::size_t n = lanes_left(columns, i);
      if (format == RowFormat::bf16) {
        store_n(reinterpret_cast<std::uint16_t*>(out) + i, value, n);
      } else {
        store_n(reinterpret_cast<float*>(out) + i,
                format == RowFormat::rounded ? rounded_to_bf16(value) : value, n);
      }
    }
  }
}

static void norm(const NormTask& t) {
  Vec sum = zero();
  for (std::size_t i = 0; i < t.dim; i += kVector) {
    const Vec x = load_n(t.x + i, lanes_left(t.dim, i));
    sum = fma(x, x, sum);
  }
  const float mean = sum_lanes(sum) / static_cast<float>(t.dim);
  const Vec scale = set1(1.0F / __builtin_sqrtf(mean + t.eps));
  for (std::size_t i = 0; i < t.dim; i += kVector) {
    const std::size_t n = lanes_left(t.dim, i);
    Vec x = mul(mul(load_n(t.x + i, n), scale), load_n(t.weight + i, n));
    if (t.gate != nullptr) x = mul(x, sigmoid_vec(load_n(t.gate + i, n)));
    store_n(t.out + i, x, n);
  }
}

static void scale_add(float alpha, const float* x, float beta, const float* y, std::size_t count,
                      float* out) {
  const Vec a = set1(alpha), b = set1(beta);
  for (std::size_t i = 0; i < count; i += kVector) {
    const std::size_t n = lanes_left(count, i);
    store_n(out + i, add(mul(a, load_n(x + i, n)), mul(b, load_n(y + i, n))), n);
  }
}

static void to_float(const std::byte* x, std::size_t count, float* out) {
  const auto* bits = reinterpret_cast<const std::uint16_t*>(x);
  for (std::size_t i = 0; i < count; i += kVector) {
    const std::size_t n = lanes_left(count, i);
    store_n(out + i, load_n(bits + i, n), n);
  }
}

static void to_bf16(const float* x, std::size_t count, std::byte* out) {
  auto* bits = reinterpret_cast<std::uint16_t*>(out);
  for (std::size_t i = 0; i < count; i += kVector) {
    const std::size_t n = lanes_left(count, i);
    store_n(bits + i, load_n(x + i, n), n);
  }
}

static void combine(const float* y, std::size_t hidden, std::size_t k, const float* weights,
                    const std::byte* const* outputs, bool bf16, float alpha, float beta,
                    float* out) {
  for (std::size_t i = 0; i < hidden; i += kVector) {
    const std::size_t n = lanes_left(hidden, i);
    Vec sum = zero();
    for (std::size_t s = 0; s < k; ++s) {
      const Vec value = bf16 ? load_n(reinterpret_cast<const std::uint16_t*>(outputs[s]) + i, n)
                             : load_n(reinterpret_cast<const float*>(outputs[s]) + i, n);
      sum = fma(set1(weights[s]), value, sum);
    }
    store_n(out + i, add(mul(set1(alpha), load_n(y + i, n)), mul(set1(beta), sum)), n);
  }
}

static void exp_shifted(float* x, std::size_t count, float shift) {
  for (std::size_t i = 0; i < count; i += kVector) {
    const std::size_t n = lanes_left(count, i);
    store_n(x + i, exp_vec(sub(load_n(x + i, n), set1(shift))), n);
  }
}

static void scale(const float* x, float factor, std::size_t count, float* out) {
  for (std::size_t i = 0; i < count; i += kVector) {
    const std::size_t n = lanes_left(count, i);
    store_n(out + i, mul(load_n(x + i, n), set1(factor)), n);
  }
}
