// Probes of the machine's limits with the same vectors the kernels use: what the roofline is made
// of. Results are returned so that the work cannot be optimised away.

/// Multiply-adds in registers: returns through `sink`; `steps` * kProbeChains vector operations.
static constexpr int kProbeChains = 16;
static constexpr std::size_t kProbeTileShare = 8;  // tile steps take so much longer

static double probe_fma(std::size_t steps, float* sink) {
  Vec sum[kProbeChains];
  for (Vec& s : sum) s = set1(*sink);
  const Vec a = set1(1.0F), b = set1(*sink);
  for (std::size_t i = 0; i < steps; ++i) {
#pragma GCC unroll 16
    for (int c = 0; c < kProbeChains; ++c) sum[c] = fma(a, b, sum[c]);
  }
  for (int c = 1; c < kProbeChains; ++c) sum[0] = add(sum[0], sum[c]);
  *sink = sum_lanes(sum[0]);
  return 2.0 * kVector * kProbeChains * static_cast<double>(steps);
}

static double probe_bf16(std::size_t steps, float* sink) {
#ifdef FULGUR_KERNEL_AMX
  // Four products from four loads, the least loads that eight registers allow; `steps` counts
  // groups of four.
  alignas(kLineBytes) std::uint16_t operands[4][kTileRows * kOrderTile];
  for (auto& tile : operands) {
    for (std::size_t i = 0; i < kTileRows * kOrderTile; ++i) {
      tile[i] = static_cast<std::uint16_t>(0x3f00U + i % 256);
    }
  }
  TileShape shape;
  shape.set(TileForm::wide, 2 * kTileRows, kTilePairs);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  steps /= kProbeTileShare;
  asm volatile("" ::"r"(operands) : "memory");
  for (std::size_t i = 0; i < steps; ++i) {
    _tile_loadd(4, operands[0], kLineBytes);
    _tile_loadd(6, operands[2], kLineBytes);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(5, operands[1], kLineBytes);
    _tile_dpbf16ps(2, 5, 6);
    _tile_loadd(7, operands[3], kLineBytes);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(3, 5, 7);
  }
  alignas(kLineBytes) float sums[kTileRows * kVector];
  _tile_stored(0, sums, kLineBytes);
  _tile_release();
  *sink = sums[0];
  return 4.0 * 2 * kTileRows * kVector * kOrderTile * static_cast<double>(steps);
#elif defined(FULGUR_KERNEL_BF16)
  Vec sum[kProbeChains];
  for (Vec& s : sum) s = set1(*sink);
  const __m512i a = _mm512_set1_epi32(static_cast<int>(steps));
  for (std::size_t i = 0; i < steps; ++i) {
#pragma GCC unroll 16
    for (int c = 0; c < kProbeChains; ++c) {
      sum[c] = {_mm512_dpbf16_ps(sum[c].v, (__m512bh)a, (__m512bh)a)};
    }
  }
  for (int c = 1; c < kProbeChains; ++c) sum[0] = add(sum[0], sum[c]);
  *sink = sum_lanes(sum[0]);
  return 4.0 * kVector * kProbeChains * static_cast<double>(steps);
#else
  return probe_fma(steps, sink);
#endif
}

static void probe_read(const float* data, std::size_t count, float* sink) {
  constexpr int kStreams = 4;
  Vec sum[kStreams] = {zero(), zero(), zero(), zero()};
  for (std::size_t i = 0; i + kStreams * kVector <= count; i += kStreams * kVector) {
#pragma GCC unroll 4
    for (int s = 0; s < kStreams; ++s) {
      sum[s] = add(sum[s], load(data + i + s * kVector));
      __builtin_prefetch(reinterpret_cast<const char*>(data + i + s * kVector) + kStreamAhead);
    }
  }
  *sink = sum_lanes(add(add(sum[0], sum[1]), add(sum[2], sum[3])));
}
