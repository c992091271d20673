// A backend whose experts are quantised as the sm_90 kernels quantise them: e4m3 weights with a
// scale for each 128 x 128 block, activations with one for each row and 128 columns, float32 sums
// of 128-column sums. All else is another backend's, in host memory. It says on a CPU what the
// format costs, and is what the kernels are tested against; its sums inside a block are exact
// float32 ones, where the tensor cores keep fewer bits.
#pragma once

#include <memory>

#include "kernels/include/fulgur/kernels/backend.hpp"

namespace fulgur::bench {

/// What is quantised; weights alone show which part of the loss is theirs.
enum class Fp8Parts : std::uint8_t { weights, weights_and_activations };

class Fp8Backend final : public kernels::Backend {
 public:
  Fp8Backend(std::unique_ptr<kernels::Backend> plain, Fp8Parts parts)
      : plain_(std::move(plain)), activations_(parts == Fp8Parts::weights_and_activations) {}

  std::string_view name() const override { return "fp8-on-cpu"; }
  kernels::Precision precision() const override { return plain_->precision(); }
  std::string numerics() const override { return plain_->numerics() + "-fp8"; }
  std::shared_ptr<std::byte> allocate(std::size_t bytes) override {
    return plain_->allocate(bytes);
  }
  void upload(std::byte* device, const void* host, std::size_t bytes) override {
    plain_->upload(device, host, bytes);
  }
  void download(void* host, const std::byte* device, std::size_t bytes) override {
    plain_->download(host, device, bytes);
  }
  std::unique_ptr<kernels::Matrix> pack(std::span<const kernels::HostMatrix> parts) override {
    return plain_->pack(parts);
  }
  std::unique_ptr<kernels::Matrix> pack_table(const kernels::HostMatrix& table) override {
    return plain_->pack_table(table);
  }
  std::unique_ptr<kernels::Matrix> pack_router(const kernels::HostMatrix& router) override {
    return plain_->pack_router(router);
  }
  std::unique_ptr<kernels::Expert> pack_expert(const kernels::HostMatrix& gate,
                                               const kernels::HostMatrix& up,
                                               const kernels::HostMatrix& down) override;
  void embed(const kernels::Matrix& table, std::span<const std::uint32_t> ids,
             float* out) override {
    plain_->embed(table, ids, out);
  }
  void rms_norm(const float* x, const float* weight, float eps, std::size_t rows, std::size_t dim,
                float* out) override {
    plain_->rms_norm(x, weight, eps, rows, dim, out);
  }
  void matmul(const float* x, std::size_t rows, const kernels::Matrix& weight,
              float* out) override {
    plain_->matmul(x, rows, weight, out);
  }
  void scale_add(float alpha, const float* x, float beta, const float* y, std::size_t count,
                 float* out) override {
    plain_->scale_add(alpha, x, beta, y, count, out);
  }
  std::size_t lightning_slot_bytes(const kernels::LightningShape& shape) const override {
    return plain_->lightning_slot_bytes(shape);
  }
  void lightning(const kernels::LightningShape& shape, const float* qkv,
                 std::span<const kernels::LightningSegment> segments, float* out) override {
    plain_->lightning(shape, qkv, segments, out);
  }
  void norm_gate(const float* o, const float* gate, const float* weight, float eps,
                 std::size_t rows, std::size_t dim, float* out) override {
    plain_->norm_gate(o, gate, weight, eps, rows, dim, out);
  }
  std::size_t softmax_page_bytes(const kernels::SoftmaxShape& shape) const override {
    return plain_->softmax_page_bytes(shape);
  }
  void softmax(const kernels::SoftmaxShape& shape, const float* qkv,
               std::span<const kernels::SoftmaxSegment> segments, std::byte* pages,
               float* out) override {
    plain_->softmax(shape, qkv, segments, pages, out);
  }
  void route(const float* y, std::size_t rows, const kernels::Matrix& router, std::uint32_t k,
             std::uint16_t* experts, float* weights) override {
    plain_->route(y, rows, router, k, experts, weights);
  }
  void gather(const float* y, std::span<const std::uint32_t> rows, std::size_t dim, Dtype dtype,
              std::byte* out) override {
    plain_->gather(y, rows, dim, dtype, out);
  }
  void copy_rows(std::span<const kernels::RowCopy> rows, std::size_t row_bytes) override {
    plain_->copy_rows(rows, row_bytes);
  }
  void experts(const std::byte* x, Dtype x_dtype, std::size_t hidden,
               std::span<const kernels::ExpertGroup> groups, std::byte* out,
               Dtype out_dtype) override;
  void combine(const float* y, std::size_t rows, std::size_t hidden, std::uint32_t k,
               const float* weights, std::span<const std::byte* const> outputs, Dtype dtype,
               float alpha, float beta, float* out) override {
    plain_->combine(y, rows, hidden, k, weights, outputs, dtype, alpha, beta, out);
  }

 private:
  std::unique_ptr<kernels::Backend> plain_;
  bool activations_;
};

}  // namespace fulgur::bench
