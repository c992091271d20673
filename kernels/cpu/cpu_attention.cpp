// Lightning and softmax attention of the CPU backend: cuts calls into (segment, head) units and
// query tiles; the vector kernels do the arithmetic (attention.inl).
//
// Slot of a lightning head: state float32 [dim, padded dim], keys [4][dim][16], values
// [64, padded dim], both in the mode's type. Page of a KV head: keys [4][dim][16], values
// [64, padded dim].
#include <algorithm>
#include <cmath>

#include "common/base/assert.hpp"
#include "kernels/cpu/cpu_backend.hpp"
#include "kernels/cpu/row_split.hpp"
#include "kernels/reference/scalar_math.hpp"
#include "kernels/reference/tables.hpp"

namespace fulgur::kernels::cpu {
namespace {

static_assert(kBlockTokens == kLightningBlock && kBlockTokens == kPageTokens);
static_assert(kSplitTokens == kSoftmaxSplit);

constexpr std::size_t kTileRows = 72;         // query rows of a tile, if one token has no more
constexpr std::size_t kDecayTablesMax = 512;  // layers of a model, with room to spare
constexpr std::size_t kPagesPerSplit = kSplitTokens / kBlockTokens;

std::size_t element_bytes(Precision precision) { return precision == Precision::bf16 ? 2 : 4; }

/// Keys and values of 64 tokens of one head.
std::size_t block_bytes(std::size_t dim, Precision precision) {
  const std::size_t bytes = kBlockTokens * (dim + padded(dim)) * element_bytes(precision);
  return (bytes + kCacheLine - 1) / kCacheLine * kCacheLine;
}

std::size_t lightning_head_bytes(std::size_t dim, Precision precision) {
  return dim * padded(dim) * sizeof(float) + block_bytes(dim, precision);
}

}  // namespace

struct CpuBackend::SoftmaxCall {
  const SoftmaxShape& shape;
  const float* qkv;
  std::span<const SoftmaxSegment> segments;
  std::byte* pages;
  float* out;
  std::size_t dim;
  std::size_t pad;
  std::size_t group;       ///< query heads of a KV head
  std::size_t head_bytes;  ///< one KV head's part of a page
  std::size_t page_bytes;
  std::size_t tile_rows;  ///< query rows of the largest tile
  float* queries;

  std::size_t partial_floats() const { return tile_rows * (pad + 2); }
  std::byte* page(const SoftmaxSegment& segment, std::size_t index, std::size_t kv_head) const {
    return pages + segment.pages[index] * page_bytes + kv_head * head_bytes;
  }
};

std::size_t CpuBackend::lightning_slot_bytes(const LightningShape& shape) const {
  return shape.heads * lightning_head_bytes(shape.head_dim, precision_);
}

const float* CpuBackend::decay_table(const LightningShape& shape) {
  for (const auto& entry : decays_) {
    if (entry->rates == shape.decay) return entry->table.data();
  }
  FULGUR_ASSERT(decays_.size() < kDecayTablesMax, "more lightning decays than layers of a model");
  const std::vector<float> powers = decay_powers(shape.decay);
  auto entry = std::make_unique<Decay>();
  entry->rates = shape.decay;
  entry->table.assign(shape.heads * kDecayStride, 0);
  for (std::size_t h = 0; h < shape.heads; ++h) {
    const float* power = powers.data() + h * (kBlockTokens + 1);
    float* table = entry->table.data() + h * kDecayStride;
    std::copy_n(power, kBlockTokens + 1, table);
    std::reverse_copy(power, power + kBlockTokens, table + kDecayForward);
  }
  decays_.push_back(std::move(entry));
  return decays_.back()->table.data();
}

void CpuBackend::lightning(const LightningShape& shape, const float* qkv,
                           std::span<const LightningSegment> segments, float* out) {
  const FlushSubnormals mode;
  FULGUR_ASSERT(shape.decay.size() == shape.heads, "one decay rate a head");
  const std::size_t dim = shape.head_dim;
  const std::size_t heads = shape.heads;
  const float* decay = decay_table(shape);
  reserve_scratch(lightning_scratch_floats(dim));
  const auto kernel = kernels_.lightning[precision_ == Precision::bf16 ? 1 : 0];
  pool_.run(segments.size() * heads, [&](std::size_t unit, std::uint32_t thread) {
    const LightningSegment& segment = segments[unit / heads];
    const std::size_t head = unit % heads;
    kernel({.qkv = qkv + (segment.row * heads + head) * 3 * dim,
            .qkv_stride = heads * 3 * dim,
            .out = out + (segment.row * heads + head) * dim,
            .out_stride = heads * dim,
            .dim = dim,
            .rows = segment.rows,
            .block_index = segment.position % kBlockTokens,
            .fresh = segment.position == 0,
            .decay = decay + head * kDecayStride,
            .slot = segment.slot + head * lightning_head_bytes(dim, precision_),
            .scratch = thread_scratch(thread)});
  });
}

std::size_t CpuBackend::softmax_page_bytes(const SoftmaxShape& shape) const {
  return shape.kv_heads * block_bytes(shape.head_dim, precision_);
}

/// Rotates queries into scratch and keys into their pages, with the values.
void CpuBackend::rotate_segments(const SoftmaxCall& call) {
  const SoftmaxShape& shape = call.shape;
  const std::size_t half = shape.rotary_dim / 2;
  const float scale = 1.0F / std::sqrt(static_cast<float>(call.dim));
  const auto store_kv = kernels_.store_kv[precision_ == Precision::bf16 ? 1 : 0];
  const std::size_t row_floats = (shape.heads + 2 * shape.kv_heads) * call.dim;
  std::size_t done = 0;
  for (const SoftmaxSegment& segment : call.segments) {
    float* queries = call.queries + done * shape.heads * call.pad;
    done += segment.rows;
    const auto work = [&](std::size_t t, float* angles) {
      float* cosine = angles;
      float* sine = angles + padded(half);
      float* rotated = sine + padded(half);
      const std::uint64_t position = segment.position + t;
      rotary_angles(frequencies_.data(), half, position, cosine, sine);
      const float* x = call.qkv + (segment.row + t) * row_floats;
      for (std::size_t h = 0; h < shape.heads; ++h) {
        const std::size_t row = (h / call.group * segment.rows + t) * call.group + h % call.group;
        kernels_.rotate(x + h * call.dim, call.dim, half, cosine, sine, scale,
                        queries + row * call.pad);
      }
      for (std::size_t kv = 0; kv < shape.kv_heads; ++kv) {
        const float* key = x + (shape.heads + kv) * call.dim;
        kernels_.rotate(key, call.dim, half, cosine, sine, 1.0F, rotated);
        store_kv(rotated, key + shape.kv_heads * call.dim, call.dim, position % kBlockTokens,
                 call.page(segment, position / kBlockTokens, kv));
      }
    };
    run_units(pool_, segment.rows, segment.rows * row_floats >= kForkElements,
              [&](std::size_t t, std::uint32_t thread) { work(t, thread_scratch(thread)); });
  }
}

void CpuBackend::plan_tiles(const SoftmaxCall& call) {
  tiles_.clear();
  const std::size_t tokens_per_tile = std::max<std::size_t>(1, kTileRows / call.group);
  std::size_t units = 0;
  std::size_t done = 0;
  for (const SoftmaxSegment& segment : call.segments) {
    const float* queries = call.queries + done * call.shape.heads * call.pad;
    done += segment.rows;
    for (std::size_t kv = 0; kv < call.shape.kv_heads; ++kv) {
      for (std::size_t token = 0; token < segment.rows; token += tokens_per_tile) {
        SoftmaxTile tile;
        tile.segment = &segment;
        tile.kv_head = kv;
        tile.token = token;
        tile.tokens = std::min(tokens_per_tile, segment.rows - token);
        tile.q = queries + (kv * segment.rows + token) * call.group * call.pad;
        tile.splits = (segment.position + token + tile.tokens - 1) / kSplitTokens + 1;
        tile.first_unit = units;
        units += tile.splits;
        tiles_.push_back(tile);
      }
    }
  }
}

/// Partial result of a tile over one split: out [rows, pad], max [rows], sum [rows].
void CpuBackend::attend_split(const SoftmaxCall& call, const SoftmaxTile& tile, std::size_t split,
                              float* partial, std::uint32_t thread) {
  const std::byte* pages[kPagesPerSplit];
  const std::uint64_t start = split * kSplitTokens;
  const std::uint64_t first = tile.segment->position + tile.token;
  // Tokens before the split's start see nothing of it; the tile's rows begin after them.
  const std::size_t skipped = first < start ? static_cast<std::size_t>(start - first) : 0;
  const std::uint64_t last = first + tile.tokens - 1;
  const std::size_t seen_most = std::min<std::uint64_t>(last + 1 - start, kSplitTokens);
  for (std::size_t p = 0; p * kBlockTokens < seen_most; ++p) {
    pages[p] = call.page(*tile.segment, split * kPagesPerSplit + p, tile.kv_head);
  }
  const std::size_t row = skipped * call.group;
  float* max = partial + call.tile_rows * call.pad;
  kernels_.softmax_split[precision_ == Precision::bf16 ? 1 : 0](
      {.q = tile.q + row * call.pad,
       .rows = tile.tokens * call.group - row,
       .group = call.group,
       .dim = call.dim,
       .valid = static_cast<std::size_t>(first + skipped + 1 - start),
       .pages = pages,
       .scores = thread_scratch(thread),
       .wide = thread_scratch(thread) + call.tile_rows * kSplitTokens,
       .max = max + row,
       .sum = max + call.tile_rows + row,
       .out = partial + row * call.pad});
}

void CpuBackend::merge_split(const SoftmaxCall& call, const SoftmaxTile& tile, std::size_t split,
                             const float* partial, float* total) {
  const std::uint64_t start = split * kSplitTokens;
  const std::uint64_t first = tile.segment->position + tile.token;
  const std::size_t skipped = first < start ? static_cast<std::size_t>(start - first) : 0;
  const std::size_t sums = call.tile_rows * call.pad;
  for (std::size_t r = skipped * call.group; r < tile.tokens * call.group; ++r) {
    kernels_.softmax_merge(total + sums + r, total + sums + call.tile_rows + r,
                           total + r * call.pad, partial[sums + r],
                           partial[sums + call.tile_rows + r], partial + r * call.pad, call.pad);
  }
}

void CpuBackend::store_tile_rows(const SoftmaxCall& call, const SoftmaxTile& tile,
                                 const float* total) {
  const float* sums = total + call.tile_rows * (call.pad + 1);
  for (std::size_t r = 0; r < tile.tokens * call.group; ++r) {
    const std::size_t token = tile.segment->row + tile.token + r / call.group;
    const std::size_t head = tile.kv_head * call.group + r % call.group;
    kernels_.scale(total + r * call.pad, 1.0F / sums[r], call.dim,
                   call.out + (token * call.shape.heads + head) * call.dim);
  }
}

void CpuBackend::softmax(const SoftmaxShape& shape, const float* qkv,
                         std::span<const SoftmaxSegment> segments, std::byte* pages, float* out) {
  const FlushSubnormals mode;
  FULGUR_ASSERT(shape.rotary_dim % 2 == 0 && shape.rotary_dim <= shape.head_dim, "bad rotary dim");
  FULGUR_ASSERT(shape.heads % shape.kv_heads == 0, "heads must be a multiple of kv_heads");
  if (frequencies_theta_ != shape.rope_theta || frequencies_.size() != shape.rotary_dim / 2) {
    frequencies_ = rotary_frequencies(shape.rope_theta, shape.rotary_dim);
    frequencies_theta_ = shape.rope_theta;
  }
  std::size_t tokens = 0;
  std::size_t longest = 0;
  for (const SoftmaxSegment& segment : segments) {
    tokens += segment.rows;
    longest = std::max<std::size_t>(longest, segment.rows);
  }
  const std::size_t dim = shape.head_dim;
  const std::size_t group = shape.heads / shape.kv_heads;
  const std::size_t tile_tokens = std::min(longest, std::max<std::size_t>(1, kTileRows / group));
  SoftmaxCall call{shape,
                   qkv,
                   segments,
                   pages,
                   out,
                   dim,
                   padded(dim),
                   group,
                   block_bytes(dim, precision_),
                   softmax_page_bytes(shape),
                   tile_tokens * group,
                   queries_.reserve(tokens * shape.heads * padded(dim))};
  const std::size_t score_floats =
      call.tile_rows * kSplitTokens + kBlockTokens * padded(dim);  // more than rotation needs
  reserve_scratch(score_floats + 2 * padded(call.partial_floats()));
  rotate_segments(call);
  plan_tiles(call);
  if (tiles_.empty()) return;

  if (tiles_.size() >= 4 * pool_.threads() || pool_.threads() == 1) {
    pool_.run(tiles_.size(), [&](std::size_t unit, std::uint32_t thread) {
      // Later tiles see more positions: the longest go first, so that threads end together.
      const SoftmaxTile& tile = tiles_[tiles_.size() - 1 - unit];
      float* total = thread_scratch(thread) + score_floats;
      float* partial = total + padded(call.partial_floats());
      attend_split(call, tile, 0, total, thread);
      for (std::size_t split = 1; split < tile.splits; ++split) {
        attend_split(call, tile, split, partial, thread);
        merge_split(call, tile, split, partial, total);
      }
      store_tile_rows(call, tile, total);
    });
    return;
  }
  // Few tiles over possibly long contexts: every split is a unit, merged in order afterwards.
  const std::size_t units = tiles_.back().first_unit + tiles_.back().splits;
  const std::size_t stride = padded(call.partial_floats());
  float* partials = partials_.reserve(units * stride);
  pool_.run(units, [&](std::size_t unit, std::uint32_t thread) {
    const auto after = std::upper_bound(
        tiles_.begin(), tiles_.end(), unit,
        [](std::size_t u, const SoftmaxTile& tile) { return u < tile.first_unit; });
    const SoftmaxTile& tile = *(after - 1);
    attend_split(call, tile, unit - tile.first_unit, partials + unit * stride, thread);
  });
  run_units(pool_, tiles_.size(), units * stride >= kForkElements,
            [&](std::size_t index, std::uint32_t) {
              const SoftmaxTile& tile = tiles_[index];
              float* total = partials + tile.first_unit * stride;
              for (std::size_t split = 1; split < tile.splits; ++split) {
                merge_split(call, tile, split, total + split * stride, total);
              }
              store_tile_rows(call, tile, total);
            });
}

}  // namespace fulgur::kernels::cpu
