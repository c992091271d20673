// A backend whose work takes virtual time: it computes with another one, at once, and charges the
// process's clock. What a slow host does is to charge more.
#pragma once

#include "kernels/include/fulgur/kernels/backend.hpp"
#include "tests/sim/world.hpp"

namespace fulgur::sim {

/// Virtual cost of one heavy kernel call.
struct ComputeCost {
  Nanoseconds call = 100 * kMicrosecond;
  Nanoseconds row = 10 * kMicrosecond;
  double factor = 1;
};

class TimedBackend final : public kernels::Backend {
 public:
  /// Both outlive the backend.
  TimedBackend(kernels::Backend& real, ProcessClock& clock, ComputeCost cost)
      : cost(cost), real_(real), clock_(clock) {}

  ComputeCost cost;

  std::string_view name() const override { return real_.name(); }
  kernels::Precision precision() const override { return real_.precision(); }
  std::shared_ptr<std::byte> allocate(std::size_t bytes) override { return real_.allocate(bytes); }
  void upload(std::byte* device, const void* host, std::size_t bytes) override {
    real_.upload(device, host, bytes);
  }
  void download(void* host, const std::byte* device, std::size_t bytes) override {
    real_.download(host, device, bytes);
  }
  std::unique_ptr<kernels::Matrix> pack(std::span<const kernels::HostMatrix> parts) override {
    return real_.pack(parts);
  }
  std::unique_ptr<kernels::Matrix> pack_table(const kernels::HostMatrix& table) override {
    return real_.pack_table(table);
  }
  std::unique_ptr<kernels::Matrix> pack_router(const kernels::HostMatrix& router) override {
    return real_.pack_router(router);
  }
  std::unique_ptr<kernels::Expert> pack_expert(const kernels::HostMatrix& gate,
                                               const kernels::HostMatrix& up,
                                               const kernels::HostMatrix& down) override {
    return real_.pack_expert(gate, up, down);
  }
  void embed(const kernels::Matrix& table, std::span<const std::uint32_t> ids, float* out) override {
    real_.embed(table, ids, out);
  }
  void rms_norm(const float* x, const float* weight, float eps, std::size_t rows, std::size_t dim,
                float* out) override {
    real_.rms_norm(x, weight, eps, rows, dim, out);
  }
  void matmul(const float* x, std::size_t rows, const kernels::Matrix& weight, float* out) override {
    real_.matmul(x, rows, weight, out);
  }
  void scale_add(float alpha, const float* x, float beta, const float* y, std::size_t count,
                 float* out) override {
    real_.scale_add(alpha, x, beta, y, count, out);
  }
  std::size_t lightning_slot_bytes(const kernels::LightningShape& shape) const override {
    return real_.lightning_slot_bytes(shape);
  }
  void lightning(const kernels::LightningShape& shape, const float* qkv,
                 std::span<const kernels::LightningSegment> segments, float* out) override {
    std::size_t rows = 0;
    for (const auto& segment : segments) rows += segment.rows;
    charge(rows);
    real_.lightning(shape, qkv, segments, out);
  }
  void norm_gate(const float* o, const float* gate, const float* weight, float eps, std::size_t rows,
                 std::size_t dim, float* out) override {
    real_.norm_gate(o, gate, weight, eps, rows, dim, out);
  }
  std::size_t softmax_page_bytes(const kernels::SoftmaxShape& shape) const override {
    return real_.softmax_page_bytes(shape);
  }
  void softmax(const kernels::SoftmaxShape& shape, const float* qkv,
               std::span<const kernels::SoftmaxSegment> segments, std::byte* pages,
               float* out) override {
    std::size_t rows = 0;
    for (const auto& segment : segments) rows += segment.rows;
    charge(rows);
    real_.softmax(shape, qkv, segments, pages, out);
  }
  void route(const float* y, std::size_t rows, const kernels::Matrix& router, std::uint32_t k,
             std::uint16_t* experts, float* weights) override {
    real_.route(y, rows, router, k, experts, weights);
  }
  void gather(const float* y, std::span<const std::uint32_t> rows, std::size_t dim, Dtype dtype,
              std::byte* out) override {
    real_.gather(y, rows, dim, dtype, out);
  }
  void copy_rows(std::span<const kernels::RowCopy> rows, std::size_t row_bytes) override {
    real_.copy_rows(rows, row_bytes);
  }
  void experts(const std::byte* x, Dtype x_dtype, std::size_t hidden,
               std::span<const kernels::ExpertGroup> groups, std::byte* out,
               Dtype out_dtype) override {
    std::size_t rows = 0;
    for (const auto& group : groups) rows += group.rows.size();
    charge(rows);
    real_.experts(x, x_dtype, hidden, groups, out, out_dtype);
  }
  void combine(const float* y, std::size_t rows, std::size_t hidden, std::uint32_t k,
               const float* weights, std::span<const std::byte* const> outputs, Dtype dtype,
               float alpha, float beta, float* out) override {
    real_.combine(y, rows, hidden, k, weights, outputs, dtype, alpha, beta, out);
  }

 private:
  void charge(std::size_t rows) {
    const Nanoseconds nominal = cost.call + static_cast<Nanoseconds>(rows) * cost.row;
    clock_.spend(static_cast<Nanoseconds>(static_cast<double>(nominal) * cost.factor));
  }

  kernels::Backend& real_;
  ProcessClock& clock_;
};

}  // namespace fulgur::sim
