// The fast CPU backend: packs weights into panels, cuts every operation into units for the compute
// pool, and calls the vector kernels of the best instruction set the machine has. Bits are equal to
// the reference's on every instruction set. Scratch memory grows to what the largest call needs and
// is reused, so a call in steady state allocates nothing.
#pragma once

#include <vector>

#include "common/base/memory.hpp"
#include "kernels/cpu/compute_pool.hpp"
#include "kernels/cpu/kernel_table.hpp"
#include "kernels/cpu/packed_weights.hpp"
#include "kernels/include/fulgur/kernels/backend.hpp"

namespace fulgur::kernels::cpu {

class CpuBackend final : public Backend {
 public:
  CpuBackend(const KernelTable& kernels, const CpuOptions& options)
      : kernels_(kernels), precision_(options.precision), pool_(options.threads, options.cpus) {}

  std::string_view name() const override { return kernels_.name; }
  Precision precision() const override { return precision_; }
  std::string numerics() const override {
    const bool tiles = precision_ == Precision::bf16 && kernels_.order == ProductOrder::tiles;
    return tiles ? "cpu-amx-bf16" : Backend::numerics();
  }
  std::shared_ptr<std::byte> allocate(std::size_t bytes) override;
  std::shared_ptr<std::byte> allocate_state(std::size_t bytes) override;
  void upload(std::byte* device, const void* host, std::size_t bytes) override;
  void download(void* host, const std::byte* device, std::size_t bytes) override;
  std::unique_ptr<Matrix> pack(std::span<const HostMatrix> parts) override;
  std::unique_ptr<Matrix> pack_table(const HostMatrix& table) override;
  std::unique_ptr<Matrix> pack_router(const HostMatrix& router) override;
  std::unique_ptr<Expert> pack_expert(const HostMatrix& gate, const HostMatrix& up,
                                      const HostMatrix& down) override;
  void embed(const Matrix& table, std::span<const std::uint32_t> ids, float* out) override;
  void rms_norm(const float* x, const float* weight, float eps, std::size_t rows, std::size_t dim,
                float* out) override;
  void matmul(const float* x, std::size_t rows, const Matrix& weight, float* out) override;
  void scale_add(float alpha, const float* x, float beta, const float* y, std::size_t count,
                 float* out) override;
  std::size_t lightning_slot_bytes(const LightningShape& shape) const override;
  void lightning(const LightningShape& shape, const float* qkv,
                 std::span<const LightningSegment> segments, float* out) override;
  void norm_gate(const float* o, const float* gate, const float* weight, float eps,
                 std::size_t rows, std::size_t dim, float* out) override;
  std::size_t softmax_page_bytes(const SoftmaxShape& shape) const override;
  void softmax(const SoftmaxShape& shape, const float* qkv,
               std::span<const SoftmaxSegment> segments, std::byte* pages, float* out) override;
  void route(const float* y, std::size_t rows, const Matrix& router, std::uint32_t k,
             std::uint16_t* experts, float* weights) override;
  void gather(const float* y, std::span<const std::uint32_t> rows, std::size_t dim, Dtype dtype,
              std::byte* out) override;
  void copy_rows(std::span<const RowCopy> rows, std::size_t row_bytes) override;
  void experts(const std::byte* x, Dtype x_dtype, std::size_t hidden,
               std::span<const ExpertGroup> groups, std::byte* out, Dtype out_dtype) override;
  void combine(const float* y, std::size_t rows, std::size_t hidden, std::uint32_t k,
               const float* weights, std::span<const std::byte* const> outputs, Dtype dtype,
               float alpha, float beta, float* out) override;

 private:
  /// Left rows of a product, in the format its panels need.
  struct Rows {
    AlignedBuffer<std::byte> data;
    std::size_t row_bytes = 0;
    RowFormat format = RowFormat::f32;
  };
  /// Rows [first_row, first_row + rows) of an expert group, a unit's share of the rows.
  struct GroupBlock {
    const PackedExpert* expert = nullptr;
    std::size_t first_row = 0;  ///< in the packed rows of all groups
    std::size_t output = 0;     ///< first output row
    std::size_t rows = 0;
    std::size_t first_unit = 0;
  };
  /// Query rows of one KV head that are computed together.
  struct SoftmaxTile {
    const SoftmaxSegment* segment = nullptr;
    std::size_t kv_head = 0;
    std::size_t token = 0;  ///< first token, within the segment
    std::size_t tokens = 0;
    const float* q = nullptr;
    std::size_t splits = 0;
    std::size_t first_unit = 0;
  };
  struct SoftmaxCall;

  RowFormat row_format(PanelType type) const;
  /// Row i of `packed` is row `source(i)` of x.
  template <class Source>
  void pack_rows(const void* x, bool x_is_bf16, std::size_t rows, std::size_t cols,
                 RowFormat format, const Source& source, Rows& packed);
  /// next: the panel this thread is likely to need after this one.
  void multiply(const Rows& rows, std::size_t row, std::size_t m, const PanelMatrix& weight,
                std::size_t panel, const std::byte* next, float* tile) const;
  std::size_t rows_per_block(std::size_t rows) const;
  void product(const Rows& rows, std::size_t m, const PanelMatrix& weight, float* out);
  void run_experts(const std::byte* x, Dtype x_dtype, std::size_t hidden, bool wide, std::byte* out,
                   Dtype out_dtype);
  void norm_rows(const NormTask& first, std::size_t rows);
  const float* decay_table(const LightningShape& shape);
  void plan_groups(std::span<const ExpertGroup> groups, std::size_t hidden);
  template <class Finish>
  void run_groups(const Rows& rows, bool down, const Finish& finish);
  void rotate_segments(const SoftmaxCall& call);
  void plan_tiles(const SoftmaxCall& call);
  void attend_split(const SoftmaxCall& call, const SoftmaxTile& tile, std::size_t split,
                    float* partial, std::uint32_t thread);
  void merge_split(const SoftmaxCall& call, const SoftmaxTile& tile, std::size_t split,
                   const float* partial, float* total);
  void store_tile_rows(const SoftmaxCall& call, const SoftmaxTile& tile, const float* total);
  float* thread_scratch(std::uint32_t thread) { return scratch_.data() + thread * scratch_stride_; }
  void reserve_scratch(std::size_t floats_per_thread);

  const KernelTable& kernels_;
  Precision precision_;
  ComputePool pool_;

  AlignedBuffer<float> scratch_;  // [threads, scratch_stride_]
  std::size_t scratch_stride_ = 0;
  Rows input_;
  Rows inner_;
  std::vector<GroupBlock> blocks_;
  std::vector<std::uint32_t> group_rows_;  ///< input rows, group after group
  std::vector<ExpertGroup> pending_;
  AlignedBuffer<float> logits_;
  struct Decay {
    std::vector<float> rates;
    std::vector<float> table;
  };
  std::vector<std::unique_ptr<Decay>> decays_;
  AlignedBuffer<float> queries_;   // [segment][kv head][token][group][padded dim]
  AlignedBuffer<float> partials_;  // [unit][rows of a tile][padded dim + 2]
  std::vector<SoftmaxTile> tiles_;
  std::vector<float> frequencies_;
  double frequencies_theta_ = 0;
};

/// The kernels that CpuOptions::isa names.
Result<const KernelTable*> kernels_of(const std::string& isa);

/// Rows of one unit of a matrix product: the output tile stays in the second-level cache.
inline constexpr std::size_t kRowsPerUnit = 192;

}  // namespace fulgur::kernels::cpu
