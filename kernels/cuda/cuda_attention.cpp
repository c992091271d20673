// Lightning and softmax attention of the CUDA backend: tables made on the host, lists of segments
// and tokens, launches.
#include <algorithm>
#include <cmath>

#include "common/base/assert.hpp"
#include "kernels/cuda/cuda_backend.hpp"
#include "kernels/reference/tables.hpp"

namespace fulgur::kernels::cuda {
namespace {

constexpr std::size_t kDecayTablesMax = 512;  // layers of a model, with room to spare
constexpr std::size_t kTokensPerLaunch = 32768;

}  // namespace

std::size_t CudaBackend::lightning_slot_bytes(const LightningShape& shape) const {
  return shape.heads * portable::lightning_head_bytes(shape.head_dim, bf16());
}

const float* CudaBackend::decay_powers_of(const LightningShape& shape) {
  FULGUR_ASSERT(shape.decay.size() == shape.heads, "one decay rate a head");
  for (const Decay& entry : decays_) {
    if (entry.rates == shape.decay) return reinterpret_cast<const float*>(entry.powers.get());
  }
  FULGUR_ASSERT(decays_.size() < kDecayTablesMax, "more lightning decays than layers of a model");
  const std::vector<float> powers = decay_powers(shape.decay);
  auto memory = allocate(powers.size() * sizeof(float));
  upload(memory.get(), powers.data(), powers.size() * sizeof(float));
  decays_.push_back({shape.decay, std::move(memory)});
  return reinterpret_cast<const float*>(decays_.back().powers.get());
}

void CudaBackend::lightning(const LightningShape& shape, const float* qkv,
                            std::span<const LightningSegment> segments, float* out) {
  if (segments.empty()) return;
  const float* powers = decay_powers_of(shape);
  std::vector<portable::LightningRows> rows;
  std::size_t last = 0;
  for (const LightningSegment& segment : segments) {
    rows.push_back({segment.row, segment.rows, segment.position, segment.slot});
    last = std::max<std::size_t>(last, segment.row + segment.rows);
  }
  work_.begin();
  float* active = work_.take<float>(last * shape.heads * 3 * shape.head_dim);
  check(
      portable::lightning_active(qkv, last, shape.heads, shape.head_dim, bf16(), active, stream()),
      "lightning: silu");
  check(portable::lightning(active, work_.upload(std::span<const portable::LightningRows>(rows)),
                            static_cast<std::uint32_t>(rows.size()), shape.heads, shape.head_dim,
                            bf16(), powers, out, stream()),
        "lightning");
}

std::size_t CudaBackend::softmax_page_bytes(const SoftmaxShape& shape) const {
  return portable::softmax_page_bytes(shape.kv_heads, shape.head_dim, bf16());
}

void CudaBackend::softmax(const SoftmaxShape& shape, const float* qkv,
                          std::span<const SoftmaxSegment> segments, std::byte* pages, float* out) {
  FULGUR_ASSERT(shape.rotary_dim % 2 == 0 && shape.rotary_dim <= shape.head_dim, "bad rotary dim");
  FULGUR_ASSERT(shape.heads % shape.kv_heads == 0, "heads must be a multiple of kv_heads");
  if (frequencies_theta_ != shape.rope_theta || frequencies_.size() != shape.rotary_dim / 2) {
    frequencies_ = rotary_frequencies(shape.rope_theta, shape.rotary_dim);
    frequencies_theta_ = shape.rope_theta;
  }
  std::vector<portable::SoftmaxToken> tokens;
  std::vector<std::uint32_t> page_list;
  for (const SoftmaxSegment& segment : segments) {
    const auto first = static_cast<std::uint32_t>(page_list.size());
    const std::size_t count = (segment.position + segment.rows + kPageTokens - 1) / kPageTokens;
    page_list.insert(page_list.end(), segment.pages, segment.pages + count);
    for (std::uint32_t t = 0; t < segment.rows; ++t) {
      tokens.push_back({segment.row + t, first, segment.position + t});
    }
  }
  const std::span<const portable::SoftmaxToken> all(tokens);
  for (std::size_t at = 0; at < all.size(); at += kTokensPerLaunch) {
    softmax_part(shape, qkv, all.subspan(at, std::min(kTokensPerLaunch, all.size() - at)),
                 page_list, pages, out);
  }
}

void CudaBackend::softmax_part(const SoftmaxShape& shape, const float* qkv,
                               std::span<const portable::SoftmaxToken> tokens,
                               std::span<const std::uint32_t> page_list, std::byte* pages,
                               float* out) {
  const std::size_t half = frequencies_.size();
  // The host's cosine: a device has another one.
  std::vector<float> angles(tokens.size() * 2 * half);
  for (std::size_t t = 0; t < tokens.size(); ++t) {
    float* cosine = angles.data() + t * 2 * half;
    rotary_angles(frequencies_.data(), half, tokens[t].position, cosine, cosine + half);
  }
  work_.begin();
  portable::Softmax call{};
  call.qkv = qkv;
  call.count = static_cast<std::uint32_t>(tokens.size());
  Lists lists(work_);
  lists.add(tokens, call.tokens);
  lists.add(page_list, call.page_list);
  lists.add(angles, call.angles);
  lists.send();
  call.pages = pages;
  call.queries = work_.take<float>(tokens.size() * shape.heads * shape.head_dim);
  call.out = out;
  call.heads = shape.heads;
  call.kv_heads = shape.kv_heads;
  call.dim = shape.head_dim;
  call.half = static_cast<std::uint32_t>(half);
  call.scale = 1.0F / std::sqrt(static_cast<float>(shape.head_dim));
  check(portable::softmax(call, bf16(), stream()), "softmax");
}

}  // namespace fulgur::kernels::cuda
