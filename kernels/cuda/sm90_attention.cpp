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
/// Decode steps of so many rows and fewer replay a graph for each block; with more rows the kernels
/// of a block take so long that its launches are never waited for.
constexpr std::size_t kGraphRows = 64;

/// Segment i is row i alone.
template <class Segment>
bool is_decode(std::span<const Segment> segments, std::size_t rows) {
  if (segments.size() != rows) return false;
  for (std::size_t i = 0; i < rows; ++i) {
    if (segments[i].row != i || segments[i].rows != 1) return false;
  }
  return true;
}

/// The kinds of blocks, for keys.
enum class Block : std::uint8_t { lightning, softmax };

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
  const LightningLists lists = send_lists(segments);
  std::byte* active = narrow_rows(last, 3 * width);
  std::byte* rows = narrow_rows(last, width);
  check(silu_bf16(qkv, last * 3 * width, active, stream()), "lightning: silu");
  lightning_rows(shape, powers, active, lists, rows);
  check(to_f32(rows, last * width, out, stream()), "lightning: widen");
}

/// Segments of one row and longer ones have kernels of their own, with the same bits.
Sm90Backend::LightningLists Sm90Backend::send_lists(std::span<const LightningSegment> segments) {
  std::vector<LightningRows> single, longer;
  for (const LightningSegment& segment : segments) {
    (segment.rows == 1 ? single : longer)
        .push_back({to_int(segment.row), to_int(segment.rows),
                    static_cast<std::int64_t>(segment.position), segment.slot});
  }
  LightningLists sent{nullptr, to_int(single.size()), nullptr, to_int(longer.size())};
  Lists lists(work());
  lists.add(longer, sent.longer);
  lists.add(single, sent.single);
  lists.send();
  return sent;
}

void Sm90Backend::lightning_rows(const LightningShape& shape, const float* powers,
                                 const void* active, const LightningLists& lists, void* out) {
  const int heads = to_int(shape.heads);
  check(lightning_prefill(active, lists.longer, lists.longer_count, heads, powers, out, stream()),
        "lightning prefill");
  check(lightning_decode(active, lists.single, lists.single_count, heads, powers, out, stream()),
        "lightning decode");
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
/// decode, tiles of longer segments for prefill. Tables have room for the bucket of the greatest
/// length, so that their width, an argument of the kernels, seldom changes.
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
      stride = std::max(stride, length_bucket(to_int(segment.position + segment.rows)) /
                                    static_cast<int>(kPageTokens));
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
  const SoftmaxRows rows(segments);
  const SoftmaxArrays arrays = softmax_arrays(shape, rows);
  std::byte* narrow_qkv = narrow_rows(count, all);
  std::byte* results = narrow_rows(count, width);
  check(to_bf16(qkv, count * all, narrow_qkv, stream()), "softmax: round");
  softmax_rows(shape, frequencies, narrow_qkv, rows, arrays, pages, results);
  check(to_f32(results, count * width, out, stream()), "softmax: widen");
}

Sm90Backend::SoftmaxArrays Sm90Backend::softmax_arrays(const SoftmaxShape& shape,
                                                       const SoftmaxRows& rows) {
  constexpr std::size_t kScratchMax = std::size_t{512} << 20;
  SoftmaxArrays arrays{};
  arrays.q = narrow_rows(rows.position.size(), std::size_t{shape.heads} * kHeadDim);
  Lists lists(work());
  lists.add(rows.sequence, arrays.sequence);
  lists.add(rows.position, arrays.position);
  lists.add(rows.table, arrays.table);
  lists.add(rows.single_table, arrays.single_table);
  lists.add(rows.single_length, arrays.single_length);
  lists.add(rows.tiles, arrays.tiles);
  lists.send();
  const std::size_t singles = rows.single_row.size();
  if (singles == 0) return arrays;
  // The merge ends at a row's own length: room for more splits changes where partial results lie,
  // and no bit of the result.
  arrays.lengths_max =
      length_bucket(*std::max_element(rows.single_length.begin(), rows.single_length.end()));
  if (sums_ == Sums::free) {  // scratch of little more than a row's outputs: no need to part rows
    arrays.rows_together = std::min(singles, std::size_t{kSoftmaxDecodeRows});
    arrays.partial =
        work().take<float>(softmax_scratch_bytes(to_int(arrays.rows_together), to_int(shape.heads),
                                                 arrays.lengths_max, sums_) /
                           sizeof(float));
    return arrays;
  }
  const std::size_t row_scratch = softmax_scratch_bytes(1, to_int(shape.heads), arrays.lengths_max);
  const std::size_t budget = std::max(row_scratch, kScratchMax);
  arrays.rows_together = std::min({singles, budget / row_scratch, std::size_t{kSoftmaxDecodeRows}});
  // The whole budget where it binds: no shorter context takes more than the longest one did.
  arrays.partial = work().take<float>(
      std::min(std::min(singles, std::size_t{kSoftmaxDecodeRows}) * row_scratch, budget) /
      sizeof(float));
  return arrays;
}

void Sm90Backend::softmax_rows(const SoftmaxShape& shape, const float* frequencies, const void* qkv,
                               const SoftmaxRows& rows, const SoftmaxArrays& arrays,
                               std::byte* pages, void* out) {
  const int heads = to_int(shape.heads);
  const int kv_heads = to_int(shape.kv_heads);
  check(rotary_cache(qkv, to_int(rows.position.size()), heads, kv_heads, to_int(shape.rotary_dim),
                     frequencies, arrays.sequence, arrays.position, arrays.table, rows.stride,
                     pages, arrays.q, stream()),
        "softmax: rotate");
  check(softmax_prefill({arrays.q, pages, arrays.table, rows.stride, arrays.tiles,
                         to_int(rows.tiles.size()), heads, kv_heads, out},
                        stream()),
        "softmax prefill");
  SoftmaxDecode call{};
  call.pages = pages;
  call.page_table = arrays.table;
  call.table_stride = rows.stride;
  call.heads = heads;
  call.kv_heads = kv_heads;
  call.lengths_max = arrays.lengths_max;
  call.partial = arrays.partial;
  call.sums = sums_;
  decode_singles(call, rows, arrays, static_cast<std::byte*>(out));
}

/// Rows of one token: consecutive ones in one launch, as many as the scratch of partial results
/// holds.
void Sm90Backend::decode_singles(SoftmaxDecode call, const SoftmaxRows& rows,
                                 const SoftmaxArrays& arrays, std::byte* results) {
  const std::size_t row_bytes = static_cast<std::size_t>(call.heads) * kHeadDim * 2;
  const std::size_t singles = rows.single_row.size();
  for (std::size_t at = 0; at < singles;) {
    std::size_t count = 1;
    while (count < arrays.rows_together && at + count < singles &&
           rows.single_row[at + count] == rows.single_row[at] + static_cast<int>(count)) {
      ++count;
    }
    const auto row = static_cast<std::size_t>(rows.single_row[at]);
    call.q = arrays.q + row * row_bytes;
    call.out = results + row * row_bytes;
    call.sequence = arrays.single_table + at;
    call.lengths = arrays.single_length + at;
    call.count = to_int(count);
    check(softmax_decode(call, stream()), "softmax decode");
    at += count;
  }
}

// --- Fused blocks --------------------------------------------------------------------------------
// Between the operations of a block rows are bf16, in the layout the next kernel reads: no pass of
// its own rounds, widens or tiles.
//
// A block is two parts. First whatever takes memory or is another step's: lists go to the device,
// arrays are taken from scratch. Then its launches, which only launch: a decode step's may become a
// graph. Its key holds every argument, addresses of scratch among them, so a graph that is replayed
// does what the launches would do. A buffer that has moved or a weight that has gone means another
// key, never a wrong graph; and if another array comes to lie at the old address, with the old
// shape, then it is the one that the launches would name, too.

void Sm90Backend::normed_input(const AttentionFrame& frame, const float* h, float* x,
                               const Tiled& operand) {
  check(residual_norm(h, nullptr, 1, 0, frame.norm_in, frame.eps, operand.rows,
                      to_int(frame.hidden), x, operand.data, operand.capacity, stream()),
        "norm");
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

void Sm90Backend::add_frame(GraphKey& key, const AttentionFrame& frame) {
  key.add(frame.norm_in, frame.norm_post, frame.eps, frame.alpha, frame.beta, frame.postnorm,
          frame.hidden);
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
  const LightningLists lists = send_lists(segments);
  std::byte* active = narrow_rows(rows, 3 * width);
  std::byte* gate = narrow_rows(rows, width);
  std::byte* core = narrow_rows(rows, width);
  const Tiled input = tiled(rows, frame.hidden);
  const Tiled gated = tiled(rows, width);
  const auto launches = [&] {
    normed_input(frame, h, x, input);
    multiply(input, weights.qkv, Store::silu_bf16_rows, active);
    multiply(input, weights.gate, Store::bf16_rows, gate);
    lightning_rows(shape, powers, active, lists, core);
    check(cuda::norm_gate(core, gate, weights.norm, weights.norm_eps, gated.rows, to_int(width),
                          gated.data, gated.capacity, stream()),
          "norm and gate");
    multiply(gated, weights.out, Store::f32_rows, out);
    finish_block(frame, rows, x, out, h, y);
  };
  if (!graphs_ || rows > kGraphRows || !is_decode(segments, rows)) return launches();
  GraphKey key(Block::lightning, rows, shape.heads, h, y, x, out, powers, weights.norm,
               weights.norm_eps, lists.single, active, gate, core, input.data, gated.data);
  add_frame(key, frame);
  for (const Matrix* weight : {&weights.qkv, &weights.gate, &weights.out}) add_weight(key, *weight);
  graphs_->run(key, launches);
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
  const SoftmaxRows list(segments);
  const SoftmaxArrays arrays = softmax_arrays(shape, list);
  std::byte* qkv = narrow_rows(rows, weights.qkv.rows());
  std::byte* core = narrow_rows(rows, width);
  const Tiled input = tiled(rows, frame.hidden);
  const Tiled attended = tiled(rows, width);
  const auto launches = [&] {
    normed_input(frame, h, x, input);
    multiply(input, weights.qkv, Store::bf16_rows, qkv);
    softmax_rows(shape, frequencies, qkv, list, arrays, pages, core);
    check(tile_rows(core, false, attended.rows, to_int(width), attended.capacity, attended.data,
                    stream()),
          "tile");
    multiply(attended, weights.out, Store::f32_rows, out);
    finish_block(frame, rows, x, out, h, y);
  };
  if (!graphs_ || rows > kGraphRows || !is_decode(segments, rows)) return launches();
  GraphKey key(Block::softmax, rows, shape.heads, shape.kv_heads, shape.rotary_dim, h, y, x, out,
               pages, frequencies, qkv, core, input.data, attended.data, list.stride);
  key.add(arrays.q, arrays.sequence, arrays.position, arrays.table, arrays.single_table,
          arrays.single_length, arrays.partial, arrays.lengths_max, arrays.rows_together);
  add_frame(key, frame);
  for (const Matrix* weight : {&weights.qkv, &weights.out}) add_weight(key, *weight);
  graphs_->run(key, launches);
}

}  // namespace fulgur::kernels::cuda
