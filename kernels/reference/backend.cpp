// What a backend inherits. A layer's attention made of the backend's single operations: what
// lightning_block() and softmax_block() mean, and how every backend that does not fuse them
// computes them.
#include "kernels/include/fulgur/kernels/backend.hpp"
#include "common/base/assert.hpp"

namespace fulgur::kernels {
namespace {

/// out: the attention of scratch.x.
void finish_block(Backend& backend, const AttentionFrame& frame, std::size_t rows, const float* x,
                  const float* out, float* h, float* y) {
  const std::size_t count = rows * frame.hidden;
  backend.scale_add(frame.alpha, frame.postnorm ? x : h, frame.beta, out, count, h);
  backend.rms_norm(h, frame.norm_post, frame.eps, rows, frame.hidden, y);
}

}  // namespace

void Backend::draw(const float*, std::size_t, std::span<const Draw>, std::span<const std::uint32_t>,
                   Drawn*) {
  FULGUR_ASSERT(false, "this backend draws no tokens");
}

void Backend::rank(float*, std::size_t, std::span<const Rank>, std::span<const std::uint32_t>,
                   Ranked&) {
  FULGUR_ASSERT(false, "this backend ranks no tokens");
}

void Backend::lightning_block(const AttentionFrame& frame, const LightningShape& shape,
                              const LightningWeights& weights, std::size_t rows,
                              std::span<const LightningSegment> segments, AttentionScratch& scratch,
                              float* h, float* y) {
  const std::size_t width = weights.gate.rows();
  float* x = scratch.x.reserve(*this, rows * frame.hidden);
  float* qkv = scratch.qkv.reserve(*this, rows * 3 * width);
  float* gate = scratch.gate.reserve(*this, rows * width);
  float* core = scratch.core.reserve(*this, rows * width);
  float* out = scratch.out.reserve(*this, rows * frame.hidden);
  rms_norm(h, frame.norm_in, frame.eps, rows, frame.hidden, x);
  matmul(x, rows, weights.qkv, qkv);
  matmul(x, rows, weights.gate, gate);
  lightning(shape, qkv, segments, core);
  norm_gate(core, gate, weights.norm, weights.norm_eps, rows, width, core);
  matmul(core, rows, weights.out, out);
  finish_block(*this, frame, rows, x, out, h, y);
}

void Backend::softmax_block(const AttentionFrame& frame, const SoftmaxShape& shape,
                            const SoftmaxWeights& weights, std::size_t rows,
                            std::span<const SoftmaxSegment> segments, std::byte* pages,
                            AttentionScratch& scratch, float* h, float* y) {
  float* x = scratch.x.reserve(*this, rows * frame.hidden);
  float* qkv = scratch.qkv.reserve(*this, rows * weights.qkv.rows());
  float* core = scratch.core.reserve(*this, rows * weights.out.cols());
  float* out = scratch.out.reserve(*this, rows * frame.hidden);
  rms_norm(h, frame.norm_in, frame.eps, rows, frame.hidden, x);
  matmul(x, rows, weights.qkv, qkv);
  softmax(shape, qkv, segments, pages, core);
  matmul(core, rows, weights.out, out);
  finish_block(*this, frame, rows, x, out, h, y);
}

}  // namespace fulgur::kernels
