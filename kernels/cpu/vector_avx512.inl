// The logical 16-lane vector on AVX-512: one register. Included inside the namespace of an
// instruction set. Every operation is a single IEEE operation a lane, so bits equal the definition.

struct Vec {
  __m512 v;
};

static constexpr int kRowsMax = 6;  // 24 accumulators of 32 registers
static constexpr int vectors_for(int) { return 4; }
static constexpr int wide_vectors_for(int rows) { return rows <= 2 ? 8 : 4; }

static inline __mmask16 lanes_below(std::size_t n) {
  return n >= 16 ? __mmask16(0xffff) : static_cast<__mmask16>((1U << n) - 1U);
}
static inline Vec zero() { return {_mm512_setzero_ps()}; }
static inline Vec set1(float x) { return {_mm512_set1_ps(x)}; }
static inline Vec load(const float* p) { return {_mm512_loadu_ps(p)}; }
static inline Vec load_n(const float* p, std::size_t n) {
  return {_mm512_maskz_loadu_ps(lanes_below(n), p)};
}
static inline void store(float* p, Vec x) { _mm512_storeu_ps(p, x.v); }
static inline void store_n(float* p, Vec x, std::size_t n) {
  _mm512_mask_storeu_ps(p, lanes_below(n), x.v);
}
static inline Vec first_lanes(Vec x, std::size_t n) {
  return {_mm512_maskz_mov_ps(lanes_below(n), x.v)};
}
static inline Vec first_lanes_or(Vec x, std::size_t n, Vec other) {
  return {_mm512_mask_mov_ps(other.v, lanes_below(n), x.v)};
}
static inline Vec add(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
static inline Vec sub(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
static inline Vec mul(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
static inline Vec div(Vec a, Vec b) { return {_mm512_div_ps(a.v, b.v)}; }
static inline Vec fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
/// Lane-wise; a NaN in b is kept.
static inline Vec max(Vec a, Vec b) { return {_mm512_max_ps(a.v, b.v)}; }
static inline Vec min(Vec a, Vec b) { return {_mm512_min_ps(a.v, b.v)}; }
static inline Vec round_even(Vec a) {
  return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
/// x * 2^n for whole n, in two steps.
static inline Vec scale_by_power(Vec x, Vec n) {
  const __m512i whole = _mm512_cvtps_epi32(n.v);
  const __m512i half = _mm512_srai_epi32(whole, 1);
  const __m512i bias = _mm512_set1_epi32(127);
  const __m512i low = _mm512_slli_epi32(_mm512_add_epi32(half, bias), 23);
  const __m512i high = _mm512_slli_epi32(_mm512_add_epi32(_mm512_sub_epi32(whole, half), bias), 23);
  return {_mm512_mul_ps(_mm512_mul_ps(x.v, _mm512_castsi512_ps(low)), _mm512_castsi512_ps(high))};
}
static inline float sum_lanes(Vec x) {
  const __m256 a =
      _mm256_add_ps(_mm512_castps512_ps256(x.v),
                    _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(x.v), 1)));
  __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  b = _mm_add_ps(b, _mm_movehl_ps(b, b));
  return _mm_cvtss_f32(_mm_add_ss(b, _mm_movehdup_ps(b)));
}
static inline float max_lanes(Vec x) { return _mm512_reduce_max_ps(x.v); }

static inline Vec widen_bf16(__m256i bits) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16))};
}
static inline Vec load(const std::uint16_t* p) {
  return widen_bf16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
static inline Vec load_n(const std::uint16_t* p, std::size_t n) {
  if (n >= kVector) return load(p);
  alignas(32) std::uint16_t copy[kVector] = {};
  __builtin_memcpy(copy, p, n * sizeof copy[0]);
  return load(copy);
}
static inline __m256i round_bf16(Vec x) {
  const __m512i bits = _mm512_castps_si512(x.v);
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  const __m512i sum = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
  const __m512i quiet = _mm512_or_si512(bits, _mm512_set1_epi32(0x400000));
  const __mmask16 nan = _mm512_cmp_ps_mask(x.v, x.v, _CMP_UNORD_Q);
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(_mm512_mask_mov_epi32(sum, nan, quiet), 16));
}
static inline void store(std::uint16_t* p, Vec x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), round_bf16(x));
}
static inline void store_n(std::uint16_t* p, Vec x, std::size_t n) {
  if (n >= kVector) return store(p, x);
  alignas(32) std::uint16_t copy[kVector];
  store(copy, x);
  __builtin_memcpy(p, copy, n * sizeof copy[0]);
}
static inline Vec rounded_to_bf16(Vec x) { return widen_bf16(round_bf16(x)); }

/// Even and odd k of 16 columns from one vector of bf16 pairs.
struct VecPair {
  Vec even, odd;
};
static inline VecPair pair_of(__m512i w) {
  return {{_mm512_castsi512_ps(_mm512_slli_epi32(w, 16))},
          {_mm512_castsi512_ps(_mm512_and_si512(w, _mm512_set1_epi32(-65536)))}};
}
static inline VecPair load_pairs(const std::uint32_t* p) { return pair_of(_mm512_loadu_si512(p)); }
