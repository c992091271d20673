// Lightning and softmax attention of the sm_90 backend: lists of segments and tiles, launches.
#include <algorithm>

#include "common/base/assert.hpp"
#include "kernels/cuda/launch.hpp"
#include "kernels/cuda/layout.hpp"
#include "kernels/cuda/sizes.hpp"
#include "kernels/cuda/sm90_backend.hpp"
#include "kernels/reference/tables.hpp"

namespace fulgur::kernels::cuda {
namespace {

/// Segments of so many rows and more go through softmax_prefill(); shorter ones row by row through
/// softmax_decode(), which gives the same bits.
constexpr int kPrefillRows = 2;

}  // namespace

std::size_t Sm90Backend::lightning_slot_bytes(const LightningShape& shape) const {
  return shape.heads * kHeadSlotBytes;
}

void Sm90Backend::lightning(const LightningShape& shape, const float* qkv,
                            std::span<const LightningSegment> segments, float* out) {
  if (segments.empty()) return;
  std::size_t last = 0;
  for (const LightningSegment& segment : segments) {
    last = std::max<std::size_t>(last, segment.row + segment.rows);
  }
  const std::size_t width = std::size_t{shape.heads} * kHeadDim;
  const float* powers = decay_powers_of(shape);
  work().begin();
  std::byte* active = narrow_rows(last, 3 * width);
  std::byte* rows = narrow_rows(last, width);
  check(silu_bf16(qkv, last * 3 * width, active, stream()), "lightning: silu");
  lightning_rows(shape, powers, active, segments, rows);
  check(to_f32(rows, last * width, out, stream()), "lightning: widen");
}

void Sm90Backend::lightning_rows(const LightningShape& shape, const float* powers,
                                 const void* active, std::span<const LightningSegment> segments,
                                 void* out) {
  // Segments of one row and longer ones have kernels of their own, with the same bits.
  std::vector<LightningRows> single, longer;
  for (const LightningSegment& segment : segments) {
    (segment.rows == 1 ? single : longer)
        .push_back({to_int(segment.row), to_int(segment.rows),
                    static_cast<std::int64_t>(segment.position), segment.slot});
  }
  const int heads = to_int(shape.heads);
  if (!longer.empty()) {
    check(lightning_prefill(active, work().upload(std::span<const LightningRows>(longer)),
                            to_int(longer.size()), heads, powers, out, stream()),
          "lightning prefill");
  }
  if (!single.empty()) {
    check(lightning_decode(active, work().upload(std::span<const LightningRows>(single)),
                           to_int(single.size()), heads, powers, out, stream()),
          "lightning decode");
  }
}

std::size_t Sm90Backend::softmax_page_bytes(const SoftmaxShape& shape) const {
  return std::size_t{shape.kv_heads} * 2 * kOpenBytes;
}

const float* Sm90Backend::frequencies_of(const SoftmaxShape& shape) {
  if (theta_ != shape.rope_theta || rotary_dim_ != shape.rotary_dim) {
    const std::vector<float> host = rotary_frequencies(shape.rope_theta, shape.rotary_dim);
    device_frequencies_ = allocate(host.size() * sizeof(float));
    upload(device_frequencies_.get(), host.data(), host.size() * sizeof(float));
    theta_ = shape.rope_theta;
    rotary_dim_ = shape.rotary_dim;
  }
  return reinterpret_cast<const float*>(device_frequencies_.get());
}

/// A call as the kernels want it: for each row its table of pages and position; single rows for
/// decode, tiles of longer segments for prefill.
struct Sm90Backend::SoftmaxRows {
  std::vector<int> sequence, position;  ///< [rows]
  std::vector<int> table;               ///< [segments, stride]
  std::vector<int> single_row, single_table, single_length;
  std::vector<SoftmaxTile> tiles;
  int stride = 0;

  explicit SoftmaxRows(std::span<const SoftmaxSegment> segments) {
    std::size_t rows = 0;
    std::size_t covered = 0;
    for (const SoftmaxSegment& segment : segments) {
      stride = std::max(stride, pages_of(segment));
      rows = std::max<std::size_t>(rows, segment.row + segment.rows);
      covered += segment.rows;
    }
    FULGUR_ASSERT(covered == rows, "segments of a softmax call leave rows out");
    sequence.resize(rows);
    position.resize(rows);
    table.resize(segments.size() * static_cast<std::size_t>(stride));
    for (std::size_t s = 0; s < segments.size(); ++s) add(segments[s], to_int(s));
    // Late tiles see the most positions: they go first, so that blocks end together.
    std::reverse(tiles.begin(), tiles.end());
  }

 private:
  static int pages_of(const SoftmaxSegment& segment) {
    return to_int((segment.position + segment.rows + kPageTokens - 1) / kPageTokens);
  }

  void add(const SoftmaxSegment& segment, int index) {
    const int first = to_int(segment.row);
    const int start = to_int(segment.position);
    const int count = to_int(segment.rows);
    std::copy_n(segment.pages, pages_of(segment), table.begin() + std::ptrdiff_t{index} * stride);
    for (int t = 0; t < count; ++t) {
      sequence[static_cast<std::size_t>(first + t)] = index;
      position[static_cast<std::size_t>(first + t)] = start + t;
    }
    if (count < kPrefillRows) {
      for (int t = 0; t < count; ++t) {
        single_row.push_back(first + t);
        single_table.push_back(index);
        single_length.push_back(start + t + 1);
      }
      return;
    }
    for (int t = 0; t < count; t += kSoftmaxTileRows) {
      tiles.push_back({first + t, std::min(kSoftmaxTileRows, count - t), start + t, index});
    }
  }
};

void Sm90Backend::softmax(const SoftmaxShape& shape, const float* qkv,
                          std::span<const SoftmaxSegment> segments, std::byte* pages, float* out) {
  if (segments.empty()) return;
  std::size_t count = 0;
  for (const SoftmaxSegment& segment : segments) count += segment.rows;
  const std::size_t width = std::size_t{shape.heads} * kHeadDim;
  const std::size_t all = (std::size_t{shape.heads} + 2 * shape.kv_heads) * kHeadDim;
  const float* frequencies = frequencies_of(shape);
  work().begin();
  std::byte* narrow_qkv = narrow_rows(count, all);
  std::byte* results = narrow_rows(count, width);
  check(to_bf16(qkv, count * all, narrow_qkv, stream()), "softmax: round");
  softmax_rows(shape, frequencies, narrow_qkv, segments, pages, results);
  check(to_f32(results, count * width, out, stream()), "softmax: widen");
}

void Sm90Backend::softmax_rows(const SoftmaxShape& shape, const float* frequencies, const void* qkv,
                               std::span<const SoftmaxSegment> segments, std::byte* pages,
                               void* out) {
  const SoftmaxRows rows(segments);
  const std::size_t count = rows.position.size();
  const int heads = to_int(shape.heads);
  const int kv_heads = to_int(shape.kv_heads);
  std::byte* q = narrow_rows(count, std::size_t{shape.heads} * kHeadDim);
  const int *sequence = nullptr, *position = nullptr, *table = nullptr;
  const int *single_table = nullptr, *single_length = nullptr;
  const SoftmaxTile* tiles = nullptr;
  Lists lists(work());
  lists.add(rows.sequence, sequence);
  lists.add(rows.position, position);
  lists.add(rows.table, table);
  lists.add(rows.single_table, single_table);
  lists.add(rows.single_length, single_length);
  lists.add(rows.tiles, tiles);
  lists.send();
  check(rotary_cache(qkv, to_int(count), heads, kv_heads, to_int(shape.rotary_dim), frequencies,
                     sequence, position, table, rows.stride, pages, q, stream()),
        "softmax: rotate");
  check(softmax_prefill(
            {q, pages, table, rows.stride, tiles, to_int(rows.tiles.size()), heads, kv_heads, out},
            stream()),
        "softmax prefill");
  SoftmaxDecode call{};
  call.pages = pages;
  call.page_table = table;
  call.table_stride = rows.stride;
  call.heads = heads;
  call.kv_heads = kv_heads;
  decode_singles(call, rows, single_table, single_length, q, static_cast<std::byte*>(out));
}

/// Rows of one token: consecutive ones in one launch, as many as the scratch of partial results
/// holds.
void Sm90Backend::decode_singles(SoftmaxDecode call, const SoftmaxRows& rows, const int* tables,
                                 const int* lengths, std::byte* q, std::byte* results) {
  constexpr std::size_t kScratchMax = std::size_t{512} << 20;
  if (rows.single_row.empty()) return;
  const std::size_t row_bytes = static_cast<std::size_t>(call.heads) * kHeadDim * 2;
  call.lengths_max = *std::max_element(rows.single_length.begin(), rows.single_length.end());
  const std::size_t row_scratch = softmax_scratch_bytes(1, call.heads, call.lengths_max);
  const std::size_t most =
      std::clamp<std::size_t>(kScratchMax / row_scratch, 1, kSoftmaxDecodeRows);
  const std::size_t singles = rows.single_row.size();
  call.partial = work().take<float>(std::min(most, singles) * row_scratch / sizeof(float));
  for (std::size_t at = 0; at < singles;) {
    std::size_t count = 1;
    while (count < most && at + count < singles &&
           rows.single_row[at + count] == rows.single_row[at] + static_cast<int>(count)) {
      ++count;
    }
    const auto row = static_cast<std::size_t>(rows.single_row[at]);
    call.q = q + row * row_bytes;
    call.out = results + row * row_bytes;
    call.sequence = tables + at;
    call.lengths = lengths + at;
    call.count = to_int(count);
    check(softmax_decode(call, stream()), "softmax decode");
    at += count;
  }
}

// --- Fused blocks --------------------------------------------------------------------------------
// Between the operations of a block rows are bf16, in the layout the next kernel reads: no pass of
// its own rounds, widens or tiles.

Sm90Backend::Tiled Sm90Backend::normed_input(const AttentionFrame& frame, std::size_t rows,
                                             const float* h, float* x) {
  const Tiled operand = tiled(rows, frame.hidden);
  check(residual_norm(h, nullptr, 1, 0, frame.norm_in, frame.eps, operand.rows,
                      to_int(frame.hidden), x, operand.data, operand.capacity, stream()),
        "norm");
  return operand;
}

void Sm90Backend::finish_block(const AttentionFrame& frame, std::size_t rows, const float* x,
                               const float* out, float* h, float* y) {
  if (!frame.postnorm) {
    check(portable::scale_add(frame.alpha, h, frame.beta, out, rows * frame.hidden, h, stream()),
          "residual");
  }
  check(residual_norm(frame.postnorm ? x : h, frame.postnorm ? out : nullptr, frame.alpha,
                      frame.beta, frame.norm_post, frame.eps, to_int(rows), to_int(frame.hidden), y,
                      nullptr, 8, stream()),
        "residual norm");
}

void Sm90Backend::lightning_block(const AttentionFrame& frame, const LightningShape& shape,
                                  const LightningWeights& weights, std::size_t rows,
                                  std::span<const LightningSegment> segments,
                                  AttentionScratch& scratch, float* h, float* y) {
  if (rows == 0) return;
  const std::size_t width = std::size_t{shape.heads} * kHeadDim;
  float* x = frame.postnorm ? scratch.x.reserve(*this, rows * frame.hidden) : nullptr;
  float* out = scratch.out.reserve(*this, rows * frame.hidden);
  const float* powers = decay_powers_of(shape);
  work().begin();  // what allocates or keeps anything comes before: it takes the scratch
  std::byte* active = narrow_rows(rows, 3 * width);
  std::byte* gate = narrow_rows(rows, width);
  std::byte* core = narrow_rows(rows, width);
  const Tiled input = normed_input(frame, rows, h, x);
  multiply(input, weights.qkv, Store::silu_bf16_rows, active);
  multiply(input, weights.gate, Store::bf16_rows, gate);
  lightning_rows(shape, powers, active, segments, core);
  const Tiled gated = tiled(rows, width);
  check(cuda::norm_gate(core, gate, weights.norm, weights.norm_eps, gated.rows, to_int(width),
                        gated.data, gated.capacity, stream()),
        "norm and gate");
  multiply(gated, weights.out, Store::f32_rows, out);
  finish_block(frame, rows, x, out, h, y);
}

void Sm90Backend::softmax_block(const AttentionFrame& frame, const SoftmaxShape& shape,
                                const SoftmaxWeights& weights, std::size_t rows,
                                std::span<const SoftmaxSegment> segments, std::byte* pages,
                                AttentionScratch& scratch, float* h, float* y) {
  if (rows == 0) return;
  const std::size_t width = std::size_t{shape.heads} * kHeadDim;
  float* x = frame.postnorm ? scratch.x.reserve(*this, rows * frame.hidden) : nullptr;
  float* out = scratch.out.reserve(*this, rows * frame.hidden);
  const float* frequencies = frequencies_of(shape);
  work().begin();
  std::byte* qkv = narrow_rows(rows, weights.qkv.rows());
  std::byte* core = narrow_rows(rows, width);
  multiply(normed_input(frame, rows, h, x), weights.qkv, Store::bf16_rows, qkv);
  softmax_rows(shape, frequencies, qkv, segments, pages, core);
  const Tiled attended = tiled(rows, width);
  check(tile_rows(core, false, attended.rows, to_int(width), attended.capacity, attended.data,
                  stream()),
        "tile");
  multiply(attended, weights.out, Store::f32_rows, out);
  finish_block(frame, rows, x, out, h, y);
}

}  // namespace fulgur::kernels::cuda
