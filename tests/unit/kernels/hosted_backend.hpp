// A backend whose memory is not the host's, as one whose memory is: every call copies its inputs
// there and its results back. So the tests of the kernels need not know where a backend computes.
#pragma once

#include <algorithm>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "kernels/include/fulgur/kernels/backend.hpp"

namespace fulgur::kernels::testing {

class HostedBackend final : public Backend {
 public:
  /// around(call) makes each call of the backend; e.g. in another order of threads.
  using Around = std::function<void(const std::function<void()>&)>;
  HostedBackend(std::unique_ptr<Backend> device, std::string name, Around around)
      : device_(std::move(device)), name_(std::move(name)), around_(std::move(around)) {}

  std::string_view name() const override { return name_; }
  Precision precision() const override { return device_->precision(); }
  std::shared_ptr<std::byte> allocate(std::size_t bytes) override {
    std::shared_ptr<std::byte> memory(new std::byte[bytes](), std::default_delete<std::byte[]>());
    sizes_[memory.get()] = bytes;
    return memory;
  }
  void upload(std::byte* to, const void* from, std::size_t bytes) override {
    std::memcpy(to, from, bytes);
  }
  void download(void* to, const std::byte* from, std::size_t bytes) override {
    std::memcpy(to, from, bytes);
  }
  std::unique_ptr<Matrix> pack(std::span<const HostMatrix> parts) override {
    std::unique_ptr<Matrix> packed;
    around_([&] { packed = device_->pack(parts); });
    return packed;
  }
  std::unique_ptr<Matrix> pack_table(const HostMatrix& table) override {
    return device_->pack_table(table);
  }
  std::unique_ptr<Matrix> pack_router(const HostMatrix& router) override {
    return device_->pack_router(router);
  }
  std::unique_ptr<Expert> pack_expert(const HostMatrix& gate, const HostMatrix& up,
                                      const HostMatrix& down) override {
    return device_->pack_expert(gate, up, down);
  }

  void embed(const Matrix& table, std::span<const std::uint32_t> ids, float* out) override {
    Output result(*this, out, ids.size() * table.cols());
    around_([&] { device_->embed(table, ids, result.get()); });
  }
  void rms_norm(const float* x, const float* weight, float eps, std::size_t rows, std::size_t dim,
                float* out) override {
    const auto a = input(x, rows * dim), w = input(weight, dim);
    Output result(*this, out, rows * dim);
    around_([&] { device_->rms_norm(at(a), at(w), eps, rows, dim, result.get()); });
  }
  void matmul(const float* x, std::size_t rows, const Matrix& weight, float* out) override {
    const auto a = input(x, rows * weight.cols());
    Output result(*this, out, rows * weight.rows());
    around_([&] { device_->matmul(at(a), rows, weight, result.get()); });
  }
  void scale_add(float alpha, const float* x, float beta, const float* y, std::size_t count,
                 float* out) override {
    const auto a = input(x, count), b = input(y, count);
    Output result(*this, out, count);
    around_([&] { device_->scale_add(alpha, at(a), beta, at(b), count, result.get()); });
  }
  std::size_t lightning_slot_bytes(const LightningShape& shape) const override {
    return device_->lightning_slot_bytes(shape);
  }
  void lightning(const LightningShape& shape, const float* qkv,
                 std::span<const LightningSegment> segments, float* out) override {
    const std::size_t width = std::size_t{shape.heads} * shape.head_dim;
    const std::size_t rows = rows_of(segments);
    const MovedSlots slots(*this, shape, segments);
    const auto a = input(qkv, rows * 3 * width);
    Output result(*this, out, rows * width);
    around_([&] { device_->lightning(shape, at(a), slots.segments(), result.get()); });
  }
  void lightning_block(const AttentionFrame& frame, const LightningShape& shape,
                       const LightningWeights& weights, std::size_t rows,
                       std::span<const LightningSegment> segments, AttentionScratch&, float* h,
                       float* y) override {
    const MovedFrame moved(*this, frame);
    const MovedSlots slots(*this, shape, segments);
    const auto norm = input(weights.norm, weights.gate.rows());
    const LightningWeights there{weights.qkv, weights.gate, at(norm), weights.norm_eps,
                                 weights.out};
    Output residual(*this, h, rows * frame.hidden), result(*this, y, rows * frame.hidden);
    AttentionScratch scratch;
    around_([&] {
      device_->lightning_block(moved.frame, shape, there, rows, slots.segments(), scratch,
                               residual.get(), result.get());
    });
  }
  void norm_gate(const float* o, const float* gate, const float* weight, float eps,
                 std::size_t rows, std::size_t dim, float* out) override {
    const auto a = input(o, rows * dim), g = input(gate, rows * dim), w = input(weight, dim);
    Output result(*this, out, rows * dim);
    around_([&] { device_->norm_gate(at(a), at(g), at(w), eps, rows, dim, result.get()); });
  }
  std::size_t softmax_page_bytes(const SoftmaxShape& shape) const override {
    return device_->softmax_page_bytes(shape);
  }
  void softmax(const SoftmaxShape& shape, const float* qkv,
               std::span<const SoftmaxSegment> segments, std::byte* pages, float* out) override {
    const std::size_t rows = rows_of(segments);
    const std::size_t all = std::size_t{shape.heads} + 2 * shape.kv_heads;
    const auto a = input(qkv, rows * all * shape.head_dim);
    const std::size_t bytes = sizes_.at(pages);
    const auto pool = copy(pages, bytes);
    {
      Output result(*this, out, rows * shape.heads * shape.head_dim);
      around_([&] { device_->softmax(shape, at(a), segments, pool.get(), result.get()); });
    }
    device_->download(pages, pool.get(), bytes);
  }
  void softmax_block(const AttentionFrame& frame, const SoftmaxShape& shape,
                     const SoftmaxWeights& weights, std::size_t rows,
                     std::span<const SoftmaxSegment> segments, std::byte* pages, AttentionScratch&,
                     float* h, float* y) override {
    const MovedFrame moved(*this, frame);
    const std::size_t bytes = sizes_.at(pages);
    const auto pool = copy(pages, bytes);
    AttentionScratch scratch;
    {
      Output residual(*this, h, rows * frame.hidden), result(*this, y, rows * frame.hidden);
      around_([&] {
        device_->softmax_block(moved.frame, shape, weights, rows, segments, pool.get(), scratch,
                               residual.get(), result.get());
      });
    }
    device_->download(pages, pool.get(), bytes);
  }
  void route(const float* y, std::size_t rows, const Matrix& router, std::uint32_t k,
             std::uint16_t* experts, float* weights) override {
    const auto a = input(y, rows * router.cols());
    around_([&] { device_->route(at(a), rows, router, k, experts, weights); });
  }
  void gather(const float* y, std::span<const std::uint32_t> rows, std::size_t dim, Dtype dtype,
              std::byte* out) override {
    const std::size_t last = rows.empty() ? 0 : *std::max_element(rows.begin(), rows.end()) + 1;
    const auto a = input(y, last * dim);
    around_([&] { device_->gather(at(a), rows, dim, dtype, out); });
  }
  void copy_rows(std::span<const RowCopy> rows, std::size_t row_bytes) override {
    around_([&] { device_->copy_rows(rows, row_bytes); });
  }
  void experts(const std::byte* x, Dtype x_dtype, std::size_t hidden,
               std::span<const ExpertGroup> groups, std::byte* out, Dtype out_dtype) override {
    around_([&] { device_->experts(x, x_dtype, hidden, groups, out, out_dtype); });
  }
  void combine(const float* y, std::size_t rows, std::size_t hidden, std::uint32_t k,
               const float* weights, std::span<const std::byte* const> outputs, Dtype dtype,
               float alpha, float beta, float* out) override {
    const auto a = input(y, rows * hidden);
    Output result(*this, out, rows * hidden);
    around_([&] {
      device_->combine(at(a), rows, hidden, k, weights, outputs, dtype, alpha, beta, result.get());
    });
  }

 private:
  using Array = std::shared_ptr<std::byte>;

  /// Results on the device, copied back when it goes.
  class Output {
   public:
    Output(HostedBackend& owner, float* host, std::size_t count)
        : owner_(owner), host_(host), bytes_(count * sizeof(float)) {
      array_ = owner_.copy(host, bytes_);
    }
    ~Output() { owner_.device_->download(host_, array_.get(), bytes_); }
    float* get() const { return at(array_); }

   private:
    HostedBackend& owner_;
    float* host_;
    std::size_t bytes_;
    Array array_;
  };

  /// The slots of a call on the device, copied back when it goes.
  class MovedSlots {
   public:
    MovedSlots(HostedBackend& owner, const LightningShape& shape,
               std::span<const LightningSegment> segments)
        : owner_(owner),
          bytes_(owner.lightning_slot_bytes(shape)),
          host_(segments.begin(), segments.end()),
          moved_(host_) {
      for (LightningSegment& segment : moved_) {
        slots_.push_back(owner_.copy(segment.slot, bytes_));
        segment.slot = slots_.back().get();
      }
    }
    ~MovedSlots() {
      for (std::size_t i = 0; i < slots_.size(); ++i) {
        owner_.device_->download(host_[i].slot, slots_[i].get(), bytes_);
      }
    }
    const std::vector<LightningSegment>& segments() const { return moved_; }

   private:
    HostedBackend& owner_;
    std::size_t bytes_;
    std::vector<LightningSegment> host_, moved_;
    std::vector<Array> slots_;
  };

  /// A frame whose norms are on the device.
  struct MovedFrame {
    MovedFrame(HostedBackend& owner, const AttentionFrame& host)
        : norm_in(owner.input(host.norm_in, host.hidden)),
          norm_post(owner.input(host.norm_post, host.hidden)),
          frame(host) {
      frame.norm_in = at(norm_in);
      frame.norm_post = at(norm_post);
    }
    Array norm_in, norm_post;
    AttentionFrame frame;
  };

  template <class Segment>
  static std::size_t rows_of(std::span<const Segment> segments) {
    std::size_t rows = 0;
    for (const Segment& segment : segments) {
      rows = std::max<std::size_t>(rows, segment.row + segment.rows);
    }
    return rows;
  }
  static float* at(const Array& array) { return reinterpret_cast<float*>(array.get()); }
  Array copy(const void* host, std::size_t bytes) {
    Array array = device_->allocate(bytes);
    device_->upload(array.get(), host, bytes);
    return array;
  }
  Array input(const float* host, std::size_t count) { return copy(host, count * sizeof(float)); }

  std::unique_ptr<Backend> device_;
  std::string name_;
  Around around_;
  std::map<const std::byte*, std::size_t> sizes_;
};

}  // namespace fulgur::kernels::testing
