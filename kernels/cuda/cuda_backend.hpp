// The backend of one GPU with the portable kernels: any shape, both precisions, the reference's
// bits. Calls enqueue on one stream and return; those that give something to host memory (route,
// download, and gather, copy_rows and experts where their rows go there) wait for it. Compiled for
// a GPU, and for the emulation (kernels/cuda/emulation). sm90_backend.hpp replaces operations by
// the fast kernels.
#pragma once

#include <string>
#include <vector>

#include "kernels/cuda/cuda_weights.hpp"
#include "kernels/cuda/event_mark.hpp"
#include "kernels/cuda/workspace.hpp"
#include "kernels/include/fulgur/kernels/backend.hpp"
#include "kernels/include/fulgur/kernels/synthetic.hpp"

namespace fulgur::kernels::cuda {

class CudaBackend : public Backend, public SyntheticWeights {
 public:
  CudaBackend(std::shared_ptr<DeviceMemory> memory, const CudaOptions& options)
      : precision_(options.precision), work_(std::move(memory), options.strict) {}

  std::string_view name() const override { return "cuda-portable"; }
  Precision precision() const override { return precision_; }
  std::string numerics() const override {
    return std::string(name()) + (bf16() ? "-bf16" : "-f32");
  }
  bool host_memory() const override { return false; }
  std::size_t memory_available() const override { return work_.memory().available(); }
  void finish() override { work_.wait(); }
  std::shared_ptr<const Mark> mark() override;
  std::shared_ptr<std::byte> allocate_host(std::size_t bytes) override;
  void rehearse(const std::function<void()>& calls) override;
  std::uint64_t allocations_total() const override { return work_.taken(); }
  std::shared_ptr<std::byte> allocate(std::size_t bytes) override;
  void upload(std::byte* device, const void* host, std::size_t bytes) override;
  void download(void* host, const std::byte* device, std::size_t bytes) override;

  std::unique_ptr<Matrix> pack(std::span<const HostMatrix> parts) override;
  std::unique_ptr<Matrix> pack_table(const HostMatrix& table) override;
  std::unique_ptr<Matrix> pack_router(const HostMatrix& router) override;
  std::unique_ptr<Expert> pack_expert(const HostMatrix& gate, const HostMatrix& up,
                                      const HostMatrix& down) override;
  std::unique_ptr<Matrix> random_matrix(std::size_t rows, std::size_t cols, std::uint64_t seed,
                                        float deviation) override;
  std::unique_ptr<Matrix> random_table(std::size_t rows, std::size_t cols, std::uint64_t seed,
                                       float deviation) override;
  std::unique_ptr<Matrix> random_router(std::size_t rows, std::size_t cols, std::uint64_t seed,
                                        float deviation) override;
  std::unique_ptr<Expert> random_expert(std::size_t hidden, std::size_t inner, std::uint64_t seed,
                                        float deviation) override;
  void argmax(const float* x, std::size_t rows, std::size_t cols, std::uint32_t* ids) override;

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
  /// Sums of probabilities have an order of their own here, and the reference's bits are promised.
  DrawSupport draw_support() const override { return DrawSupport::most_likely; }
  void draw(const float* logits, std::size_t vocab, std::span<const Draw> rows,
            std::span<const std::uint32_t> banned, Drawn* out) override;
  void rank(float* logits, std::size_t vocab, std::span<const Rank> rows,
            std::span<const std::uint32_t> banned, Ranked& out) override;

 protected:
  /// Rows of a call to experts(), flattened: entry i of `rows` is the input of output row i.
  struct ExpertCall {
    std::size_t input_rows = 0;
    std::vector<std::uint32_t> rows;
    std::uint32_t rows_max = 0;  ///< of a group
  };
  static ExpertCall flatten(std::span<const ExpertGroup> groups);

  /// Places of rows: as the host knows them, and that list on the device.
  struct Places {
    std::span<const void* const> host;
    const void* const* device;
  };
  /// What the operations of these names start once their lists are on the device.
  virtual cudaError_t embed_rows(const DeviceTable& table, const std::uint32_t* ids,
                                 std::size_t count, float* out);
  virtual cudaError_t gather_rows(const float* y, const std::uint32_t* rows, std::size_t count,
                                  std::size_t dim, Dtype dtype, void* out);
  virtual cudaError_t combine_rows(const float* y, std::size_t rows, std::size_t hidden,
                                   std::uint32_t k, const float* weights, const Places& outputs,
                                   Dtype dtype, float alpha, float beta, float* out);

  bool bf16() const { return precision_ == Precision::bf16; }
  Workspace& work() { return work_; }
  cudaStream_t stream() const { return work_.stream(); }
  /// Rows that may be in host memory, on the device.
  const void* on_device(const std::byte* rows, std::size_t bytes);
  /// Where output rows that may go to host memory are computed, and their way there.
  void* output_rows(std::byte* out, std::size_t bytes);
  void deliver(std::byte* out, const void* computed, std::size_t bytes);
  /// Routes on the device, [routes] weights and then [routes] ids, to the host.
  void deliver_routes(const std::byte* both, std::size_t routes, std::uint16_t* experts,
                      float* weights);
  /// exp(-rate n) on the device: [heads, kLightningBlock + 1].
  const float* decay_powers_of(const LightningShape& shape);
  /// The source rows of a part, `rows` at a time, on the device: visit(first row, rows, data).
  template <class Visit>
  void for_each_slab(const HostMatrix& part, const Visit& visit);

 private:
  std::unique_ptr<DeviceMatrix> pack_as(std::span<const HostMatrix> parts, Dtype dtype);
  std::unique_ptr<DeviceMatrix> random_weight(std::size_t rows, std::size_t cols,
                                              std::uint64_t seed, float deviation, Dtype dtype);
  const float* rounded(const float* x, std::size_t count);
  /// Indices of the addresses that are no memory of a GPU.
  template <class Pointer>
  std::vector<std::size_t> in_host_memory(const std::vector<Pointer>& places) const;
  void stage_host_rows(std::vector<const void*>& places, std::size_t row_bytes);
  void softmax_part(const SoftmaxShape& shape, const float* qkv,
                    std::span<const portable::SoftmaxToken> tokens,
                    std::span<const std::uint32_t> page_list, std::byte* pages, float* out);

  const Precision precision_;
  Workspace work_;
  const std::shared_ptr<EventPool> events_ = std::make_shared<EventPool>();
  struct Decay {
    std::vector<float> rates;
    std::shared_ptr<std::byte> powers;
  };
  std::vector<Decay> decays_;
  std::vector<std::byte> routes_;
  std::shared_ptr<std::byte> ranked_;  ///< pinned: what rank() answers
  std::size_t ranked_bytes_ = 0;
  std::vector<float> frequencies_;
  double frequencies_theta_ = 0;
};

template <class Visit>
void CudaBackend::for_each_slab(const HostMatrix& part, const Visit& visit) {
  constexpr std::size_t kSlabBytes = std::size_t{32} << 20;
  const std::size_t row_bytes = part.cols * size_of(part.dtype);
  constexpr std::size_t kTogether = 128;  // rows that a quantiser must see at once
  const std::size_t slab_rows = std::max(kTogether, kSlabBytes / row_bytes / kTogether * kTogether);
  for (std::size_t row = 0; row < part.rows; row += slab_rows) {
    const std::size_t rows = std::min(slab_rows, part.rows - row);
    work_.begin();
    auto* slab = work_.take<std::byte>(rows * row_bytes);
    work_.copy_in(slab, static_cast<const std::byte*>(part.data) + row * row_bytes,
                  rows * row_bytes);
    visit(row, rows, slab);
  }
}

}  // namespace fulgur::kernels::cuda
