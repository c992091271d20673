// The definition of the model's arithmetic: plain loops, one thread, host memory. Slow on purpose;
// every other backend is tested against its bits.
//
// Reduction orders (part of the definition):
//   matrix product   per output element, pairs of k ascending, in a pair the odd k first, each step
//                    one fused multiply-add, subnormals flushed: what vdpbf16ps does in hardware;
//                    or, of bf16 by bf16 on request, in the order of AMX (ProductOrder::tiles)
//   mean square      16 lanes (exp_constants.hpp)
//   lightning        dots over d ascending; then the open block's tokens j ascending
//   softmax          dots over d ascending; sum of exponentials in 16 lanes by position; values by
//                    position ascending; splits merged in position order
#pragma once

#include <vector>

#include "kernels/include/fulgur/kernels/backend.hpp"

namespace fulgur::kernels {

class ReferenceMatrix final : public Matrix {
 public:
  ReferenceMatrix(std::size_t rows, std::size_t cols) : rows_(rows), cols_(cols) {}
  std::size_t rows() const override { return rows_; }
  std::size_t cols() const override { return cols_; }
  std::size_t bytes() const override { return values.size() * sizeof(float); }

  std::vector<float> values;  ///< [rows, cols]
  bool narrow = true;         ///< all values are bf16

 private:
  std::size_t rows_;
  std::size_t cols_;
};

class ReferenceBackend final : public Backend {
 public:
  ReferenceBackend(Precision precision, ProductOrder order)
      : precision_(precision), order_(order) {}

  std::string_view name() const override { return "reference"; }
  Precision precision() const override { return precision_; }
  std::shared_ptr<std::byte> allocate(std::size_t bytes) override;
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
  /// Of a product of stored rows by this weight.
  ProductOrder order_of(const ReferenceMatrix& weight) const {
    return precision_ == Precision::bf16 && weight.narrow ? order_ : ProductOrder::pairs;
  }

  Precision precision_;
  ProductOrder order_;
};

}  // namespace fulgur::kernels
