// Weights in the memory of a GPU, in the layouts of the portable kernels.
#pragma once

#include <memory>

#include "kernels/cuda/portable/portable.hpp"
#include "kernels/include/fulgur/kernels/backend.hpp"

namespace fulgur::kernels::cuda {

/// A matrix for products, [pairs][rows][2] of bf16 or float32.
class DeviceMatrix final : public Matrix {
 public:
  DeviceMatrix(std::shared_ptr<std::byte> memory, portable::Weight shape)
      : memory_(std::move(memory)), weight_(shape) {
    weight_.data = memory_.get();
  }
  std::size_t rows() const override { return weight_.rows; }
  std::size_t cols() const override { return weight_.cols; }
  std::size_t bytes() const override {
    return portable::weight_bytes(weight_.rows, weight_.cols, weight_.dtype);
  }
  const portable::Weight& weight() const { return weight_; }

 private:
  std::shared_ptr<std::byte> memory_;
  portable::Weight weight_;
};

/// A table for embed(): rows as they are in the checkpoint.
class DeviceTable final : public Matrix {
 public:
  DeviceTable(std::shared_ptr<std::byte> memory, std::size_t rows, std::size_t cols, Dtype dtype)
      : memory_(std::move(memory)), rows_(rows), cols_(cols), dtype_(dtype) {}
  std::size_t rows() const override { return rows_; }
  std::size_t cols() const override { return cols_; }
  std::size_t bytes() const override { return rows_ * cols_ * size_of(dtype_); }
  const std::byte* data() const { return memory_.get(); }
  Dtype dtype() const { return dtype_; }

 private:
  std::shared_ptr<std::byte> memory_;
  std::size_t rows_;
  std::size_t cols_;
  Dtype dtype_;
};

class DeviceExpert final : public Expert {
 public:
  DeviceExpert(std::unique_ptr<DeviceMatrix> gate_up, std::unique_ptr<DeviceMatrix> down)
      : gate_up_(std::move(gate_up)), down_(std::move(down)) {}
  std::size_t bytes() const override { return gate_up_->bytes() + down_->bytes(); }
  const portable::Weight& gate_up() const { return gate_up_->weight(); }  ///< [2 inner, hidden]
  const portable::Weight& down() const { return down_->weight(); }        ///< [hidden, inner]

 private:
  std::unique_ptr<DeviceMatrix> gate_up_;
  std::unique_ptr<DeviceMatrix> down_;
};

}  // namespace fulgur::kernels::cuda
