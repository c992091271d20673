// Lightning and softmax attention of the definition. Blocks and splits are aligned to absolute
// positions of a sequence, so a sequence cut into calls at any place gives the same bits.
#include <cstring>
#include <limits>

#include "common/base/assert.hpp"
#include "kernels/reference/reference_backend.hpp"
#include "kernels/reference/scalar_math.hpp"
#include "kernels/reference/tables.hpp"

namespace fulgur::kernels {
namespace {

/// One head's part of a slot: state at the last block boundary, then keys and values of the open
/// block, all float32 (already rounded to the mode's type).
struct HeadState {
  float* state;   ///< [dim (key), dim (value)]
  float* keys;    ///< [kLightningBlock, dim]
  float* values;  ///< [kLightningBlock, dim]
};

std::size_t head_floats(std::size_t dim) { return dim * (dim + 2 * kLightningBlock); }

HeadState head_state(std::byte* slot, std::size_t head, std::size_t dim) {
  float* base = reinterpret_cast<float*>(slot) + head * head_floats(dim);
  return {base, base + dim * dim, base + dim * dim + kLightningBlock * dim};
}

float dot(const float* a, const float* b, std::size_t dim) {
  float sum = 0;
  for (std::size_t d = 0; d < dim; ++d) sum = std::fma(a[d], b[d], sum);
  return sum;
}

/// state = exp(-r B) state + sum over j of exp(-r (B - 1 - j)) k_j v_jᵀ, j ascending.
void fold(const HeadState& head, const float* decay, std::size_t dim) {
  for (std::size_t d = 0; d < dim; ++d) {
    for (std::size_t e = 0; e < dim; ++e) {
      float sum = decay[kLightningBlock] * head.state[d * dim + e];
      for (std::uint32_t j = 0; j < kLightningBlock; ++j) {
        const float key = decay[kLightningBlock - 1 - j] * head.keys[j * dim + d];
        sum = std::fma(key, head.values[j * dim + e], sum);
      }
      head.state[d * dim + e] = sum;
    }
  }
}

/// Output row i of the open block: q reads the state, then tokens 0..i of the block.
void lightning_row(const HeadState& head, const float* q, std::uint32_t i, const float* decay,
                   std::size_t dim, float* out) {
  for (std::size_t e = 0; e < dim; ++e) {
    float sum = 0;
    for (std::size_t d = 0; d < dim; ++d) sum = std::fma(q[d], head.state[d * dim + e], sum);
    out[e] = sum * decay[i + 1];
  }
  for (std::uint32_t j = 0; j <= i; ++j) {
    const float weight = dot(q, head.keys + j * dim, dim) * decay[i - j];
    for (std::size_t e = 0; e < dim; ++e) {
      out[e] = std::fma(weight, head.values[j * dim + e], out[e]);
    }
  }
}

struct Partial {
  float max = -std::numeric_limits<float>::infinity();
  float sum = 0;
  std::vector<float> out;
};

void merge(Partial& total, const Partial& part) {
  if (total.sum == 0) {
    total = part;
    return;
  }
  const float max = std::max(total.max, part.max);
  const float old_scale = exp_fixed(total.max - max);
  const float new_scale = exp_fixed(part.max - max);
  total.max = max;
  total.sum = total.sum * old_scale + part.sum * new_scale;
  for (std::size_t e = 0; e < part.out.size(); ++e) {
    total.out[e] = total.out[e] * old_scale + part.out[e] * new_scale;
  }
}

/// Pages of one sequence, one layer: key and value rows of a position, float32.
struct PageView {
  const SoftmaxShape& shape;
  const std::uint32_t* pages;
  std::byte* pool;
  std::size_t page_bytes;

  float* row(std::uint64_t position, std::size_t kv_head, bool value) const {
    float* page = reinterpret_cast<float*>(pool + pages[position / kPageTokens] * page_bytes);
    const std::size_t token = position % kPageTokens;
    return page + ((kv_head * 2 + (value ? 1 : 0)) * kPageTokens + token) * shape.head_dim;
  }
};

Partial attend_split(const PageView& view, const float* q, std::size_t kv_head, std::uint64_t first,
                     std::uint64_t last) {
  const std::size_t dim = view.shape.head_dim;
  Partial part;
  part.out.assign(dim, 0);
  std::vector<float> scores;
  for (std::uint64_t p = first; p < last; ++p) {
    scores.push_back(dot(q, view.row(p, kv_head, false), dim));
    part.max = std::max(part.max, scores.back());
  }
  float lanes[kLanes] = {};
  for (std::uint64_t p = first; p < last; ++p) {
    const float weight = exp_fixed(scores[p - first] - part.max);
    lanes[p % kLanes] += weight;
    const float* value = view.row(p, kv_head, true);
    for (std::size_t e = 0; e < dim; ++e) part.out[e] = std::fma(weight, value[e], part.out[e]);
  }
  part.sum = sum_lanes(lanes);
  return part;
}

void attend(const PageView& view, const float* q, std::size_t kv_head, std::uint64_t position,
            float* out) {
  Partial total;
  for (std::uint64_t first = 0; first <= position; first += kSoftmaxSplit) {
    merge(total, attend_split(view, q, kv_head, first,
                              std::min<std::uint64_t>(first + kSoftmaxSplit, position + 1)));
  }
  const float scale = 1.0F / total.sum;
  for (std::size_t e = 0; e < total.out.size(); ++e) out[e] = total.out[e] * scale;
}

void rotate(const float* x, std::size_t dim, std::size_t half, const float* cosine,
            const float* sine, float* out) {
  for (std::size_t j = 0; j < half; ++j) {
    out[j] = x[j] * cosine[j] - x[j + half] * sine[j];
    out[j + half] = x[j + half] * cosine[j] + x[j] * sine[j];
  }
  for (std::size_t d = 2 * half; d < dim; ++d) out[d] = x[d];
}

}  // namespace

std::size_t ReferenceBackend::lightning_slot_bytes(const LightningShape& shape) const {
  return shape.heads * head_floats(shape.head_dim) * sizeof(float);
}

void ReferenceBackend::lightning(const LightningShape& shape, const float* qkv,
                                 std::span<const LightningSegment> segments, float* out) {
  const FlushSubnormals mode;
  const std::size_t dim = shape.head_dim;
  FULGUR_ASSERT(shape.decay.size() == shape.heads, "one decay rate a head");
  const std::vector<float> powers = decay_powers(shape.decay);
  std::vector<float> q(dim);
  for (const LightningSegment& segment : segments) {
    for (std::size_t h = 0; h < shape.heads; ++h) {
      const HeadState head = head_state(segment.slot, h, dim);
      const float* decay = powers.data() + h * (kLightningBlock + 1);
      if (segment.position == 0) std::memset(head.state, 0, dim * dim * sizeof(float));
      for (std::uint32_t t = 0; t < segment.rows; ++t) {
        const std::size_t token = segment.row + t;
        const float* x = qkv + (token * shape.heads + h) * 3 * dim;
        const auto i = static_cast<std::uint32_t>((segment.position + t) % kLightningBlock);
        for (std::size_t d = 0; d < dim; ++d) {
          q[d] = silu_fixed(x[d]);
          head.keys[i * dim + d] = stored(silu_fixed(x[dim + d]), precision_);
          head.values[i * dim + d] = stored(silu_fixed(x[2 * dim + d]), precision_);
        }
        lightning_row(head, q.data(), i, decay, dim, out + (token * shape.heads + h) * dim);
        if (i + 1 == kLightningBlock) fold(head, decay, dim);
      }
    }
  }
}

std::size_t ReferenceBackend::softmax_page_bytes(const SoftmaxShape& shape) const {
  return std::size_t{shape.kv_heads} * 2 * kPageTokens * shape.head_dim * sizeof(float);
}

void ReferenceBackend::softmax(const SoftmaxShape& shape, const float* qkv,
                               std::span<const SoftmaxSegment> segments, std::byte* pages,
                               float* out) {
  const FlushSubnormals mode;
  const std::size_t dim = shape.head_dim;
  const std::size_t half = shape.rotary_dim / 2;
  FULGUR_ASSERT(shape.rotary_dim % 2 == 0 && shape.rotary_dim <= dim, "bad rotary dim");
  FULGUR_ASSERT(shape.heads % shape.kv_heads == 0, "heads must be a multiple of kv_heads");
  const std::vector<float> frequencies = rotary_frequencies(shape.rope_theta, shape.rotary_dim);
  std::vector<float> cosine(half), sine(half), rotated(dim);
  const float scale = 1.0F / std::sqrt(static_cast<float>(dim));
  for (const SoftmaxSegment& segment : segments) {
    const PageView view{shape, segment.pages, pages, softmax_page_bytes(shape)};
    for (std::uint32_t t = 0; t < segment.rows; ++t) {
      const std::uint64_t position = segment.position + t;
      const std::size_t token = segment.row + t;
      const float* x = qkv + token * (shape.heads + 2 * shape.kv_heads) * dim;
      rotary_angles(frequencies.data(), half, position, cosine.data(), sine.data());
      for (std::size_t kv = 0; kv < shape.kv_heads; ++kv) {
        rotate(x + (shape.heads + kv) * dim, dim, half, cosine.data(), sine.data(), rotated.data());
        const float* value = x + (shape.heads + shape.kv_heads + kv) * dim;
        for (std::size_t d = 0; d < dim; ++d) {
          view.row(position, kv, false)[d] = stored(rotated[d], precision_);
          view.row(position, kv, true)[d] = stored(value[d], precision_);
        }
      }
      for (std::size_t h = 0; h < shape.heads; ++h) {
        rotate(x + h * dim, dim, half, cosine.data(), sine.data(), rotated.data());
        for (float& value : rotated) value *= scale;
        attend(view, rotated.data(), h / (shape.heads / shape.kv_heads), position,
               out + (token * shape.heads + h) * dim);
      }
    }
  }
}

}  // namespace fulgur::kernels
