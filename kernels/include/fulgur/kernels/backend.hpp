// The arithmetic of the model behind one interface: `reference` defines it in plain C++, `cpu` is
// fast on x86-64, `cuda` runs on GPUs. No framework types.
//
// Memory: activations, weights and state are in the backend's memory (allocate(), Buffer); on a GPU
// host code cannot touch it, see host_memory(). What comes from or goes to the outside is in host
// memory: ids, segments and their page numbers, routes (route()). Rows that cross the wire (out of
// gather(), x and out of experts(), both ends of copy_rows(), outputs of combine()) may be in host
// memory or in any memory of the backend's device, e.g. a transport's. A backend of a device may
// only queue work whose results stay there: whoever shows them to somebody else hands mark() on,
// and whoever owns device memory that such work reads keeps it until the mark is reached.
//
// Contract of every operation (invariant I1): a row of the result depends on that row's inputs and
// on the sequence state it names, and on nothing else: not on how many rows are in the call, their
// order, the number of threads or how a sequence is cut into calls. Every reduction has one fixed
// order. The order is part of the definition, so `reference` and `cpu` agree bit for bit.
//
// Thread contract: a Backend belongs to one thread at a time; it uses its own compute threads
// inside a call and none between calls.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/clock.hpp"
#include "common/base/dtype.hpp"
#include "common/base/model_shape.hpp"
#include "common/base/status.hpp"
#include "kernels/include/fulgur/kernels/draw.hpp"
#include "kernels/include/fulgur/kernels/product_order.hpp"
#include "kernels/include/fulgur/kernels/sums.hpp"

namespace fulgur::kernels {

/// How matrix products treat their left operand. bf16: rounded to bf16, products accumulated in
/// float32 (the fast mode). f32: kept in float32 (the exact mode that meets the oracle). Weights
/// are bf16 as stored unless the checkpoint holds more bits, and every sum is float32 in both
/// modes. KV pages and open lightning blocks are stored in the same type as the mode.
enum class Precision : std::uint8_t { f32, bf16 };

/// Tokens of a lightning block. State is folded at multiples of this from the sequence start.
inline constexpr std::uint32_t kLightningBlock = 64;
/// Tokens of a softmax KV page.
inline constexpr std::uint32_t kPageTokens = 64;
/// Positions after which partial softmax results are merged; a multiple of kPageTokens.
inline constexpr std::uint32_t kSoftmaxSplit = 512;

/// A weight in host memory, row-major [rows = output features, cols = input features].
struct HostMatrix {
  const void* data = nullptr;
  Dtype dtype = Dtype::f32;
  std::size_t rows = 0;
  std::size_t cols = 0;
};

/// A weight in the backend's own layout. Immutable.
class Matrix {
 public:
  virtual ~Matrix() = default;
  virtual std::size_t rows() const = 0;   ///< output features
  virtual std::size_t cols() const = 0;   ///< input features
  virtual std::size_t bytes() const = 0;  ///< memory read by one product
};

/// One expert's SwiGLU weights: w2(silu(w1 x) * w3 x). Immutable.
class Expert {
 public:
  virtual ~Expert() = default;
  virtual std::size_t bytes() const = 0;
};

/// Shape of the lightning attention of one layer.
struct LightningShape {
  std::uint32_t heads = 0;
  std::uint32_t head_dim = 0;
  std::vector<float> decay;  ///< [heads] rate r: the state is multiplied by exp(-r) each token
};

/// Consecutive tokens of one sequence in a lightning call.
struct LightningSegment {
  std::uint32_t row = 0;       ///< first row of the segment in qkv and out
  std::uint32_t rows = 0;      ///< tokens, any number >= 1; may cross block boundaries
  std::uint64_t position = 0;  ///< position of the first token in its sequence
  std::byte* slot = nullptr;   ///< lightning_slot_bytes() of state; contents ignored at position 0
};

/// Shape of the softmax attention of one layer.
struct SoftmaxShape {
  std::uint32_t heads = 0;
  std::uint32_t kv_heads = 0;
  std::uint32_t head_dim = 0;
  std::uint32_t rotary_dim = 0;  ///< leading dims of each head that are rotated; even
  double rope_theta = 0;
};

/// Consecutive tokens of one sequence in a softmax call.
struct SoftmaxSegment {
  std::uint32_t row = 0;
  std::uint32_t rows = 0;
  std::uint64_t position = 0;
  const std::uint32_t* pages = nullptr;  ///< page numbers covering positions [0, position + rows)
};

/// What surrounds the attention of a layer: x = rms_norm(h; norm_in), h' = alpha * (postnorm ? x :
/// h)
/// + beta * attention(x), y = rms_norm(h'; norm_post).
struct AttentionFrame {
  const float* norm_in = nullptr;    ///< [hidden]
  const float* norm_post = nullptr;  ///< [hidden]
  float eps = 0;
  float alpha = 1;
  float beta = 1;
  bool postnorm = false;
  std::size_t hidden = 0;
};

/// Weights of a lightning attention of width W = heads * head_dim.
struct LightningWeights {
  const Matrix& qkv;            ///< [3 W, hidden], interleaved per head
  const Matrix& gate;           ///< [W, hidden]
  const float* norm = nullptr;  ///< [W], of norm_gate()
  float norm_eps = 0;
  const Matrix& out;  ///< [hidden, W]
};

/// Weights of a softmax attention.
struct SoftmaxWeights {
  const Matrix& qkv;  ///< [W + 2 KV, hidden]
  const Matrix& out;  ///< [hidden, W]
};

struct AttentionScratch;

/// Rows of a call that go through one expert: output row `output + i` is expert(x[rows[i]]).
struct ExpertGroup {
  const Expert* expert = nullptr;
  std::span<const std::uint32_t> rows;
  std::uint32_t output = 0;
};

/// One row that copy_rows() brings from one place to another.
struct RowCopy {
  const std::byte* from = nullptr;
  std::byte* to = nullptr;
};

/// A point in the work that a backend has queued. Any thread, and it may outlive the backend.
class Mark {
 public:
  virtual ~Mark() = default;
  /// Whether all that was queued before it is over, however that ended.
  virtual bool reached() const = 0;
  /// Returns when it is.
  virtual void wait() const = 0;
  /// Time of the device from an earlier mark to this one; 0 unless both are reached.
  virtual Nanoseconds since(const Mark& earlier) const = 0;
  /// The cudaEvent_t that another stream waits for, as in wire::Frame::ready; lives as long as the
  /// mark.
  virtual void* event() const = 0;
};

/// What a backend's CUDA graphs have come to.
struct GraphCounts {
  std::uint64_t captured = 0;  ///< made
  std::uint64_t replayed = 0;  ///< calls that were one launch
  std::uint64_t refused = 0;   ///< not made or not launched for want of memory, or by a failure
  std::uint64_t dropped = 0;   ///< given up for others
  std::uint64_t bytes = 0;     ///< of the device that went while they were made
};

/// One implementation of the model's arithmetic. Activations are float32 row-major
/// [tokens, features] unless a Dtype says otherwise. Shapes are checked by FULGUR_ASSERT.
class Backend {
 public:
  virtual ~Backend() = default;

  /// "reference", "cpu-amx", "cpu-avx512bf16", "cpu-avx512", "cpu-avx2", …
  virtual std::string_view name() const = 0;
  virtual Precision precision() const = 0;
  /// Backends whose strings are equal give equal bits: "cpu-bf16", "cpu-amx-bf16", "cpu-f32",
  /// "cuda-portable-f32", …
  virtual std::string numerics() const {
    return precision() == Precision::bf16 ? "cpu-bf16" : "cpu-f32";
  }
  /// Whether the backend's memory may be read and written through plain pointers.
  virtual bool host_memory() const { return true; }
  /// Bytes that allocate() could still give; host memory: as many as one likes.
  virtual std::size_t memory_available() const { return std::numeric_limits<std::size_t>::max(); }

  /// Returns when all that was asked for has been computed.
  virtual void finish() {}
  /// Behind all that was asked for so far. Null: nothing is ever left queued when a call returns.
  virtual std::shared_ptr<const Mark> mark() { return nullptr; }
  /// Host memory that download() fills fastest; not initialised.
  virtual std::shared_ptr<std::byte> allocate_host(std::size_t bytes) {
    return {new std::byte[bytes], std::default_delete<std::byte[]>()};
  }

  /// Makes `calls`, operations of this backend in the largest shapes it will see, for the memory
  /// that they take: later calls find it. Their results are undefined. Throws std::bad_alloc.
  virtual void rehearse(const std::function<void()>& calls) { calls(); }
  /// Times that memory was asked for: of the device, and pinned. Nothing but allocate(),
  /// allocate_host() and packing adds to it once the largest shapes were rehearsed. Not counted:
  /// what the driver takes for graphs, which are made while serving and may be refused.
  virtual std::uint64_t allocations_total() const { return 0; }
  virtual GraphCounts graph_counts() const { return {}; }

  /// Throws std::bad_alloc when there is not so much, as does every operation that needs memory of
  /// its own; the backend can be used on, results and states of that call are undefined. Zeroed
  /// memory of this backend, 64-byte aligned.
  virtual std::shared_ptr<std::byte> allocate(std::size_t bytes) = 0;
  /// The same for state slots and KV pages, which are read in long streams.
  virtual std::shared_ptr<std::byte> allocate_state(std::size_t bytes) { return allocate(bytes); }
  virtual void upload(std::byte* device, const void* host, std::size_t bytes) = 0;
  virtual void download(void* host, const std::byte* device, std::size_t bytes) = 0;

  /// Packs matrices with equal cols into one, stacked along rows in the given order.
  virtual std::unique_ptr<Matrix> pack(std::span<const HostMatrix> parts) = 0;
  /// Keeps a matrix for embed(): rows are gathered, so they stay contiguous in their own dtype.
  virtual std::unique_ptr<Matrix> pack_table(const HostMatrix& table) = 0;
  /// Keeps a matrix in float32 for route(), whatever the precision mode.
  virtual std::unique_ptr<Matrix> pack_router(const HostMatrix& router) = 0;
  virtual std::unique_ptr<Expert> pack_expert(const HostMatrix& gate, const HostMatrix& up,
                                              const HostMatrix& down) = 0;

  /// out[i] = table[ids[i]] as float32. out [ids.size(), table.cols()].
  virtual void embed(const Matrix& table, std::span<const std::uint32_t> ids, float* out) = 0;

  /// out = weight * x / sqrt(mean(x^2) + eps) per row. x, out [rows, dim], may alias; weight [dim].
  virtual void rms_norm(const float* x, const float* weight, float eps, std::size_t rows,
                        std::size_t dim, float* out) = 0;

  /// out [rows, weight.rows()] = x [rows, weight.cols()] · weightᵀ.
  virtual void matmul(const float* x, std::size_t rows, const Matrix& weight, float* out) = 0;

  /// out = alpha * x + beta * y, elementwise over `count`; out may alias either.
  virtual void scale_add(float alpha, const float* x, float beta, const float* y, std::size_t count,
                         float* out) = 0;

  /// Bytes of one sequence's lightning state in one layer: state at the last block boundary
  /// float32 [heads, head_dim (key), head_dim (value)] and the open block's keys and values.
  virtual std::size_t lightning_slot_bytes(const LightningShape& shape) const = 0;
  /// Lightning attention in block form. qkv [tokens, heads, 3, head_dim] before SiLU (interleaved
  /// per head: q, k, v); out [tokens, heads, head_dim] before the norm. Updates the slots.
  virtual void lightning(const LightningShape& shape, const float* qkv,
                         std::span<const LightningSegment> segments, float* out) = 0;
  /// out = rms_norm(o; weight, eps) * sigmoid(gate). o, gate, out [rows, dim]; out may alias o.
  virtual void norm_gate(const float* o, const float* gate, const float* weight, float eps,
                         std::size_t rows, std::size_t dim, float* out) = 0;

  /// Bytes of one KV page of one layer: keys (rotated) and values of kPageTokens tokens.
  virtual std::size_t softmax_page_bytes(const SoftmaxShape& shape) const = 0;
  /// Causal grouped-query attention over paged KV. qkv [tokens, heads + 2 * kv_heads, head_dim]
  /// (all q, then all k, then all v, before rotation); writes the new keys and values to their
  /// pages, then out [tokens, heads, head_dim]. Partial results over kSoftmaxSplit positions are
  /// merged in position order. `pages` is the layer's pool, page p at p * softmax_page_bytes().
  virtual void softmax(const SoftmaxShape& shape, const float* qkv,
                       std::span<const SoftmaxSegment> segments, std::byte* pages, float* out) = 0;

  /// A layer's attention with what surrounds it: h [rows, hidden] -> y [rows, hidden]. h becomes
  /// h', but with postnorm, where nothing needs it, it is left undefined. Made of the operations
  /// above; a backend may fuse them. Segments cover all rows.
  virtual void lightning_block(const AttentionFrame& frame, const LightningShape& shape,
                               const LightningWeights& weights, std::size_t rows,
                               std::span<const LightningSegment> segments,
                               AttentionScratch& scratch, float* h, float* y);
  virtual void softmax_block(const AttentionFrame& frame, const SoftmaxShape& shape,
                             const SoftmaxWeights& weights, std::size_t rows,
                             std::span<const SoftmaxSegment> segments, std::byte* pages,
                             AttentionScratch& scratch, float* h, float* y);

  /// Top-k routing: softmax over all experts in float32, the k largest (ties: lower expert first),
  /// divided by their sum. experts, weights [rows, k] by descending weight.
  virtual void route(const float* y, std::size_t rows, const Matrix& router, std::uint32_t k,
                     std::uint16_t* experts, float* weights) = 0;

  /// Copies rows of y [*, dim] in dtype (f32 or bf16): out[i] = y[rows[i]].
  virtual void gather(const float* y, std::span<const std::uint32_t> rows, std::size_t dim,
                      Dtype dtype, std::byte* out) = 0;

  /// Copies rows of `row_bytes` bytes, at any alignment. No row that is written overlaps another.
  virtual void copy_rows(std::span<const RowCopy> rows, std::size_t row_bytes) = 0;

  /// Grouped SwiGLU. x [*, hidden] in x_dtype; out [sum of group rows, hidden] in out_dtype. x and
  /// out may be unaligned (they live in wire messages).
  virtual void experts(const std::byte* x, Dtype x_dtype, std::size_t hidden,
                       std::span<const ExpertGroup> groups, std::byte* out, Dtype out_dtype) = 0;

  /// out[i] = alpha * y[i] + beta * sum over slots s ascending of weights[i, s] * outputs[i * k +
  /// s]. y, out [rows, hidden] float32, may alias; outputs: rows * k pointers to [hidden] in dtype,
  /// possibly unaligned.
  virtual void combine(const float* y, std::size_t rows, std::size_t hidden, std::uint32_t k,
                       const float* weights, std::span<const std::byte* const> outputs, Dtype dtype,
                       float alpha, float beta, float* out) = 0;

  virtual DrawSupport draw_support() const { return DrawSupport::none; }
  /// The next tokens of rows of logits [*, vocab] in this backend's memory, to host memory: out
  /// [rows]. No token of `banned` is chosen. A row's result depends on its logits and its Draw
  /// alone.
  virtual void draw(const float* logits, std::size_t vocab, std::span<const Draw> rows,
                    std::span<const std::uint32_t> banned, Drawn* out);
  /// Edits rows of logits [*, vocab] in this backend's memory and ranks them, for draws that draw()
  /// cannot make; no row is listed twice. A row's result depends on its logits and its Rank alone,
  /// and all but the totals is the same on every backend. draw_support() != none.
  virtual void rank(float* logits, std::size_t vocab, std::span<const Rank> rows,
                    std::span<const std::uint32_t> banned, Ranked& out);
};

/// An array of T in a backend's memory that grows and never shrinks; contents are not kept across
/// growth. One backend for life.
template <class T>
class Buffer {
 public:
  /// Makes room for `count` elements; returns the start of the array.
  T* reserve(Backend& backend, std::size_t count) {
    if (count > capacity_) {
      count = std::max(count, capacity_ + capacity_ / 4);
      memory_.reset();
      capacity_ = 0;
      memory_ = backend.allocate(count * sizeof(T));
      capacity_ = count;
    }
    return data();
  }
  T* data() const { return reinterpret_cast<T*>(memory_.get()); }

 private:
  std::shared_ptr<std::byte> memory_;
  std::size_t capacity_ = 0;
};

/// Arrays that live only inside one lightning_block() or softmax_block().
struct AttentionScratch {
  Buffer<float> x;     ///< [rows, hidden]
  Buffer<float> qkv;   ///< [rows, 3 W] or [rows, W + 2 KV]
  Buffer<float> gate;  ///< [rows, W]
  Buffer<float> core;  ///< [rows, W]
  Buffer<float> out;   ///< [rows, hidden]
};

struct CpuOptions {
  Precision precision = Precision::bf16;
  std::uint32_t threads = 1;   ///< compute threads, the caller included
  std::vector<int> cpus = {};  ///< cpu of each thread, the caller's first; empty: not pinned
  /// "auto": the best the machine has; "avx": the best but AMX, which in bf16 is a numerics of its
  /// own (ProductOrder) while all others share theirs; "amx" | "avx512bf16" | "avx512" | "avx2".
  std::string isa = "auto";
};

/// Kernels of a family give each other's bits; two families do not. `portable` has the reference's
/// bits and runs every model in both precisions; `sm90` is fast: Hopper, bf16, head_dim 128, 8
/// heads a KV head, sizes in multiples of 64. `automatic`: sm90 where it fits.
enum class CudaFamily : std::uint8_t { automatic, portable, sm90 };

/// How a backend keeps experts. `fp8_e4m3`: one byte a weight with a scale for each 128 x 128
/// block, activations quantised on the fly (common/base/e4m3.hpp); the sm90 family only, another
/// numerics.
enum class ExpertWeights : std::uint8_t { bf16, fp8_e4m3 };

/// By the name that flags give.
inline ExpertWeights expert_weights_of(std::string_view name) {
  return name == "fp8" ? ExpertWeights::fp8_e4m3 : ExpertWeights::bf16;
}

/// Graphs kept by default: each layer of a model at several sizes of a decode step.
inline constexpr std::size_t kGraphsMax = 512;

struct CudaOptions {
  Precision precision = Precision::bf16;
  int device = 0;
  CudaFamily family = CudaFamily::automatic;
  ModelShape shape;
  ExpertWeights expert_weights = ExpertWeights::bf16;
  /// free: the sm90 family only, with numerics of its own. No service asks for it.
  Sums sums = Sums::fixed;
  /// CUDA graphs of attention blocks that are kept at most; 0: none are made. The same bits either
  /// way. The sm90 family only, and not when strict.
  std::size_t graphs_max = kGraphsMax;
  /// For tests: scratch is full of NaN before each use, and every array an allocation of its own,
  /// so that compute-sanitizer (or the emulation's guard pages) sees what goes past its end.
  bool strict = false;
};

/// The definition: plain loops, one thread. order: of products of bf16 by bf16.
std::unique_ptr<Backend> make_reference_backend(Precision precision,
                                                ProductOrder order = ProductOrder::pairs);

/// The fast CPU backend; fails when the machine (or the forced isa) has less than AVX2 + FMA.
Result<std::unique_ptr<Backend>> make_cpu_backend(const CpuOptions& options);

/// The backend of one GPU. failed_precondition, in one line: this build has no CUDA, no driver or
/// an old one, no such GPU, one older than sm_80, a family that does not fit.
Result<std::unique_ptr<Backend>> make_cuda_backend(const CudaOptions& options);

}  // namespace fulgur::kernels
