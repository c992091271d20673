// The CUDA backend with the fast kernels (launch.hpp) where they replace the portable ones: Hopper,
// bf16 (experts also e4m3, ExpertWeights), the shapes of misfit(). Its bits are its own: other
// orders of sums, the hardware's exponential, lightning's state operands and softmax's weights
// rounded to bf16. Within it a row depends on its sequence and the weights only, as everywhere
// (I1), unless sums are free (CudaOptions::sums), which is for measuring. Attention blocks of
// decode steps are replayed as CUDA graphs (graph_cache.hpp).
#pragma once

#include "kernels/cuda/cuda_backend.hpp"
#include "kernels/cuda/graph_cache.hpp"
#include "kernels/cuda/launch.hpp"

namespace fulgur::kernels::cuda {

class Sm90Backend final : public CudaBackend {
 public:
  Sm90Backend(std::shared_ptr<DeviceMemory> memory, const CudaOptions& options);

  /// Why a model's shape does not fit; empty: it does.
  static std::string misfit(const ModelShape& shape);

  std::string_view name() const override { return "cuda-sm90"; }
  DrawSupport draw_support() const override { return DrawSupport::all; }
  GraphCounts graph_counts() const override { return graphs_ ? graphs_->counts() : GraphCounts{}; }
  void rehearse(const std::function<void()>& calls) override;
  std::string numerics() const override {
    return CudaBackend::numerics() + (fp8_ ? "-fp8" : "") + (sums_ == Sums::free ? "-free" : "");
  }
  std::unique_ptr<Matrix> pack(std::span<const HostMatrix> parts) override;
  std::unique_ptr<Matrix> pack_router(const HostMatrix& router) override;
  std::unique_ptr<Expert> pack_expert(const HostMatrix& gate, const HostMatrix& up,
                                      const HostMatrix& down) override;
  std::unique_ptr<Matrix> random_matrix(std::size_t rows, std::size_t cols, std::uint64_t seed,
                                        float deviation) override;
  std::unique_ptr<Matrix> random_router(std::size_t rows, std::size_t cols, std::uint64_t seed,
                                        float deviation) override;
  std::unique_ptr<Expert> random_expert(std::size_t hidden, std::size_t inner, std::uint64_t seed,
                                        float deviation) override;
  void rms_norm(const float* x, const float* weight, float eps, std::size_t rows, std::size_t dim,
                float* out) override;
  void matmul(const float* x, std::size_t rows, const Matrix& weight, float* out) override;
  std::size_t lightning_slot_bytes(const LightningShape& shape) const override;
  void lightning(const LightningShape& shape, const float* qkv,
                 std::span<const LightningSegment> segments, float* out) override;
  void norm_gate(const float* o, const float* gate, const float* weight, float eps,
                 std::size_t rows, std::size_t dim, float* out) override;
  std::size_t softmax_page_bytes(const SoftmaxShape& shape) const override;
  void softmax(const SoftmaxShape& shape, const float* qkv,
               std::span<const SoftmaxSegment> segments, std::byte* pages, float* out) override;
  void lightning_block(const AttentionFrame& frame, const LightningShape& shape,
                       const LightningWeights& weights, std::size_t rows,
                       std::span<const LightningSegment> segments, AttentionScratch& scratch,
                       float* h, float* y) override;
  void softmax_block(const AttentionFrame& frame, const SoftmaxShape& shape,
                     const SoftmaxWeights& weights, std::size_t rows,
                     std::span<const SoftmaxSegment> segments, std::byte* pages,
                     AttentionScratch& scratch, float* h, float* y) override;
  void route(const float* y, std::size_t rows, const Matrix& router, std::uint32_t k,
             std::uint16_t* experts, float* weights) override;
  void experts(const std::byte* x, Dtype x_dtype, std::size_t hidden,
               std::span<const ExpertGroup> groups, std::byte* out, Dtype out_dtype) override;

 protected:
  cudaError_t embed_rows(const DeviceTable& table, const std::uint32_t* ids, std::size_t count,
                         float* out) override;
  cudaError_t gather_rows(const float* y, const std::uint32_t* rows, std::size_t count,
                          std::size_t dim, Dtype dtype, void* out) override;
  cudaError_t combine_rows(const float* y, std::size_t rows, std::size_t hidden, std::uint32_t k,
                           const float* weights, const Places& outputs, Dtype dtype, float alpha,
                           float beta, float* out) override;

 private:
  class PackedMatrix;
  class PackedExpert;
  struct SoftmaxRows;
  /// Segments on the device.
  struct LightningLists {
    const LightningRows* single;  ///< of one row each
    int single_count;
    const LightningRows* longer;
    int longer_count;
  };
  /// A softmax call's lists on the device, and its scratch.
  struct SoftmaxArrays {
    const int *sequence, *position, *table;
    const int *single_table, *single_length;
    const SoftmaxTile* tiles;
    std::byte* q;
    int lengths_max;            ///< a bucket that holds all single lengths
    std::size_t rows_together;  ///< that partial has room for
    float* partial;
  };
  /// Rows as the left operand of a product (layout.hpp), in scratch.
  struct Tiled {
    std::byte* data;
    int rows;
    int capacity;
  };

  std::shared_ptr<std::byte> packed_memory(std::size_t rows, std::size_t cols);
  void pack_rows(const HostMatrix& part, std::size_t first, int interleave, std::byte* packed);
  std::shared_ptr<std::byte> random_packed(std::size_t rows, std::size_t cols, std::uint64_t seed,
                                           float deviation);
  Tiled tiled(std::size_t rows, std::size_t cols);
  /// out = x · weightᵀ in the form of `store`, see Store.
  void multiply(const Tiled& x, const Matrix& weight, Store store, void* out);
  /// Rows of bf16 in scratch.
  std::byte* narrow_rows(std::size_t rows, std::size_t cols) {
    return work().take<std::byte>(rows * cols * 2);
  }
  /// x of the frame as an operand, also to `x` when that is wanted.
  void normed_input(const AttentionFrame& frame, const float* h, float* x, const Tiled& operand);
  void finish_block(const AttentionFrame& frame, std::size_t rows, const float* x, const float* out,
                    float* h, float* y);
  static void add_frame(GraphKey& key, const AttentionFrame& frame);
  static void add_weight(GraphKey& key, const Matrix& weight);
  LightningLists send_lists(std::span<const LightningSegment> segments);
  /// qkv after SiLU and out: bf16 rows.
  void lightning_rows(const LightningShape& shape, const float* powers, const void* active,
                      const LightningLists& lists, void* out);
  SoftmaxArrays softmax_arrays(const SoftmaxShape& shape, const SoftmaxRows& rows);
  /// qkv and out: bf16 rows.
  void softmax_rows(const SoftmaxShape& shape, const float* frequencies, const void* qkv,
                    const SoftmaxRows& rows, const SoftmaxArrays& arrays, std::byte* pages,
                    void* out);
  std::shared_ptr<std::byte> packed8_memory(std::size_t rows, std::size_t cols);
  void quantize_rows(const HostMatrix& part, int interleave, std::size_t packed_rows,
                     std::byte* packed);
  std::unique_ptr<Expert> pack_fp8_expert(const HostMatrix& gate, const HostMatrix& up,
                                          const HostMatrix& down);
  void quantize_random(std::size_t rows, std::size_t cols, std::uint64_t seed, float deviation,
                       int interleave, std::size_t packed_rows, std::byte* packed);
  std::unique_ptr<Expert> random_fp8_expert(std::size_t hidden, std::size_t inner,
                                            std::uint64_t seed, float deviation);
  /// Scratch of a tiled operand of the experts' products.
  void* take_tiled(std::size_t capacity, std::size_t cols);
  const float* frequencies_of(const SoftmaxShape& shape);
  void decode_singles(SoftmaxDecode call, const SoftmaxRows& rows, const SoftmaxArrays& arrays,
                      std::byte* results);

  const bool fp8_;  ///< of the experts; everything else is bf16
  const Sums sums_;
  std::shared_ptr<std::byte> partials_;  ///< of products with free sums
  std::shared_ptr<std::byte> device_frequencies_;
  double theta_ = 0;
  std::uint32_t rotary_dim_ = 0;
  std::unique_ptr<GraphCache> graphs_;  ///< null: none are made
};

}  // namespace fulgur::kernels::cuda
