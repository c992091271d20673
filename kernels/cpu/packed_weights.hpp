// Weights in the layout the vector kernels stream: panels of 64 output features, inside a panel the
// input features in pairs, [pairs][vectors][16][2] bf16, or float32 rows [k][vectors * 16] when the
// checkpoint holds bits that bf16 would lose. One product reads a panel front to back.
#pragma once

#include <memory>
#include <span>
#include <vector>

#include "kernels/cpu/kernel_table.hpp"
#include "kernels/include/fulgur/kernels/backend.hpp"

namespace fulgur::kernels::cpu {

/// Memory for weights and state: 64-byte aligned, zeroed, and when large mapped page by page at
/// once, which on virtual machines is several times cheaper than touching it.
/// huge: pages of 2 MiB where they fit and the kernel has them, for what is read in one long
/// stream, as weights and state are; rows of activations a power of two apart would meet in few sets of the
/// second-level cache, which sees physical addresses (prefill became a sixth slower).
std::shared_ptr<std::byte> allocate_pages(std::size_t bytes, bool populate, bool huge);

/// One matrix, or gate and up of an expert interleaved by half panels.
class PanelMatrix final : public Matrix {
 public:
  /// Source of one output feature: a row of a host matrix, or null for padding.
  struct RowSource {
    const std::byte* data = nullptr;
    Dtype dtype = Dtype::f32;
  };

  /// rows: what rows() reports; sources: panel columns in order. keep_f32: never convert to bf16.
  /// bf16 is chosen when it loses no bit of any source.
  PanelMatrix(std::size_t rows, std::size_t cols, std::span<const RowSource> sources,
              bool keep_f32);

  std::size_t rows() const override { return rows_; }
  std::size_t cols() const override { return cols_; }
  std::size_t bytes() const override { return bytes_; }

  PanelType type() const { return type_; }
  std::size_t pairs() const { return (cols_ + 1) / 2; }
  std::size_t columns() const { return columns_; }  ///< panel columns in all, padding included
  std::size_t panels() const { return (columns_ + kPanelColumns - 1) / kPanelColumns; }
  /// Vectors of 16 columns in a panel: 4, fewer in the last.
  std::size_t vecs(std::size_t panel) const;
  const std::byte* panel(std::size_t panel) const { return data_.get() + panel * panel_bytes_; }

 private:
  void fill(std::span<const RowSource> sources);

  std::size_t rows_;
  std::size_t cols_;
  std::size_t columns_ = 0;
  PanelType type_ = PanelType::bf16;
  std::size_t panel_bytes_ = 0;
  std::size_t bytes_ = 0;
  std::shared_ptr<std::byte> data_;
};

/// Row sources of host matrices stacked along rows.
std::vector<PanelMatrix::RowSource> stacked_rows(std::span<const HostMatrix> parts);
/// gate rows [32 i, 32 i + 32) then up rows of the same numbers make panel i.
std::vector<PanelMatrix::RowSource> interleaved_rows(const HostMatrix& gate, const HostMatrix& up);

/// A table for embed(): rows as they are in the checkpoint.
class TableMatrix final : public Matrix {
 public:
  explicit TableMatrix(const HostMatrix& table);
  std::size_t rows() const override { return rows_; }
  std::size_t cols() const override { return cols_; }
  std::size_t bytes() const override { return rows_ * cols_ * size_of(dtype_); }
  Dtype dtype() const { return dtype_; }
  const std::byte* row(std::size_t i) const { return data_.get() + i * cols_ * size_of(dtype_); }

 private:
  std::size_t rows_;
  std::size_t cols_;
  Dtype dtype_;
  std::shared_ptr<std::byte> data_;
};

class PackedExpert final : public Expert {
 public:
  PackedExpert(const HostMatrix& gate, const HostMatrix& up, const HostMatrix& down);
  std::size_t bytes() const override { return gate_up.bytes() + down.bytes(); }

  /// Any weight is kept in float32, so left rows are float32 as well.
  bool wide() const { return gate_up.type() == PanelType::f32 || down.type() == PanelType::f32; }

  PanelMatrix gate_up;  ///< rows(): the expert's inner size
  PanelMatrix down;
};

}  // namespace fulgur::kernels::cpu
