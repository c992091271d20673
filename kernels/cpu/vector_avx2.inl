// The logical 16-lane vector on AVX2 + FMA: two registers. Included inside the namespace of an
// instruction set. Every operation is a single IEEE operation a lane, so bits equal the definition.

struct Vec {
  __m256 a, b;
};

static constexpr int kRowsMax = 4;  // at most 8 accumulators of 16 registers
static constexpr int vectors_for(int rows) { return rows == 1 ? 4 : rows == 2 ? 2 : 1; }
static constexpr int wide_vectors_for(int rows) { return vectors_for(rows); }

static inline Vec zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
static inline Vec set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
static inline Vec load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
static inline Vec load_n(const float* p, std::size_t n) {
  if (n >= kVector) return load(p);
  alignas(32) float copy[kVector] = {};
  __builtin_memcpy(copy, p, n * sizeof copy[0]);
  return load(copy);
}
static inline void store(float* p, Vec x) {
  _mm256_storeu_ps(p, x.a);
  _mm256_storeu_ps(p + 8, x.b);
}
static inline void store_n(float* p, Vec x, std::size_t n) {
  if (n >= kVector) return store(p, x);
  alignas(32) float copy[kVector];
  store(copy, x);
  __builtin_memcpy(p, copy, n * sizeof copy[0]);
}
static inline Vec first_lanes_or(Vec x, std::size_t n, Vec other) {
  const __m256i count = _mm256_set1_epi32(static_cast<int>(n > kVector ? kVector : n));
  const __m256i low = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const __m256i high = _mm256_add_epi32(low, _mm256_set1_epi32(8));
  return {_mm256_blendv_ps(other.a, x.a, _mm256_castsi256_ps(_mm256_cmpgt_epi32(count, low))),
          _mm256_blendv_ps(other.b, x.b, _mm256_castsi256_ps(_mm256_cmpgt_epi32(count, high)))};
}
static inline Vec first_lanes(Vec x, std::size_t n) { return first_lanes_or(x, n, zero()); }
static inline Vec add(Vec x, Vec y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
static inline Vec sub(Vec x, Vec y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
static inline Vec mul(Vec x, Vec y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
static inline Vec div(Vec x, Vec y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
static inline Vec fma(Vec x, Vec y, Vec z) {
  return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
/// Lane-wise; a NaN in y is kept.
static inline Vec max(Vec x, Vec y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
static inline Vec min(Vec x, Vec y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
static inline Vec round_even(Vec x) {
  return {_mm256_round_ps(x.a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC),
          _mm256_round_ps(x.b, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
static inline __m256 scale_half(__m256 x, __m256 n) {
  const __m256i whole = _mm256_cvtps_epi32(n);
  const __m256i half = _mm256_srai_epi32(whole, 1);
  const __m256i bias = _mm256_set1_epi32(127);
  const __m256i low = _mm256_slli_epi32(_mm256_add_epi32(half, bias), 23);
  const __m256i high = _mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(whole, half), bias), 23);
  return _mm256_mul_ps(_mm256_mul_ps(x, _mm256_castsi256_ps(low)), _mm256_castsi256_ps(high));
}
/// x * 2^n for whole n, in two steps.
static inline Vec scale_by_power(Vec x, Vec n) {
  return {scale_half(x.a, n.a), scale_half(x.b, n.b)};
}
static inline float sum_lanes(Vec x) {
  const __m256 a = _mm256_add_ps(x.a, x.b);
  __m128 b = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  b = _mm_add_ps(b, _mm_movehl_ps(b, b));
  return _mm_cvtss_f32(_mm_add_ss(b, _mm_movehdup_ps(b)));
}
static inline float max_lanes(Vec x) {
  const __m256 a = _mm256_max_ps(x.a, x.b);
  __m128 b = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
  b = _mm_max_ps(b, _mm_movehl_ps(b, b));
  return _mm_cvtss_f32(_mm_max_ss(b, _mm_movehdup_ps(b)));
}

static inline __m256 widen_half(__m128i bits) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
}
static inline Vec load(const std::uint16_t* p) {
  return {widen_half(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))),
          widen_half(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 8)))};
}
static inline Vec load_n(const std::uint16_t* p, std::size_t n) {
  if (n >= kVector) return load(p);
  alignas(32) std::uint16_t copy[kVector] = {};
  __builtin_memcpy(copy, p, n * sizeof copy[0]);
  return load(copy);
}
/// Rounded to bf16, still in the upper half of each lane.
static inline __m256i round_half(__m256 x) {
  const __m256i bits = _mm256_castps_si256(x);
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  const __m256i sum = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
  const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
  return _mm256_and_si256(_mm256_blendv_epi8(sum, quiet, nan), _mm256_set1_epi32(-65536));
}
static inline void store(std::uint16_t* p, Vec x) {
  const __m256i packed = _mm256_packus_epi32(_mm256_srli_epi32(round_half(x.a), 16),
                                             _mm256_srli_epi32(round_half(x.b), 16));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute4x64_epi64(packed, 0xd8));
}
static inline void store_n(std::uint16_t* p, Vec x, std::size_t n) {
  if (n >= kVector) return store(p, x);
  alignas(32) std::uint16_t copy[kVector];
  store(copy, x);
  __builtin_memcpy(p, copy, n * sizeof copy[0]);
}
static inline Vec rounded_to_bf16(Vec x) {
  return {_mm256_castsi256_ps(round_half(x.a)), _mm256_castsi256_ps(round_half(x.b))};
}

/// Even and odd k of 16 columns from one vector of bf16 pairs.
struct VecPair {
  Vec even, odd;
};
static inline VecPair load_pairs(const std::uint32_t* p) {
  const __m256i lo = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  const __m256i hi = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p + 8));
  const __m256i upper = _mm256_set1_epi32(-65536);
  return {{_mm256_castsi256_ps(_mm256_slli_epi32(lo, 16)),
           _mm256_castsi256_ps(_mm256_slli_epi32(hi, 16))},
          {_mm256_castsi256_ps(_mm256_and_si256(lo, upper)),
           _mm256_castsi256_ps(_mm256_and_si256(hi, upper))}};
}
