// Products, experts, routing and row operations of the CPU backend.
#include "kernels/cpu/cpu_backend.hpp"

#include <algorithm>
#include <cstring>
#include <functional>

#include "common/base/assert.hpp"
#include "kernels/cpu/row_split.hpp"
#include "kernels/reference/scalar_math.hpp"
#include "kernels/reference/tables.hpp"

namespace fulgur::kernels::cpu {
namespace {

/// Bytes of weights below which a product is not worth waking a thread for.
constexpr std::size_t kForkBytes = 64 << 10;
/// Memory of the backend's pools that is mapped at once rather than on first touch.
constexpr std::size_t kPopulateBytes = 256 << 20;

template <class Packed, class Interface>
const Packed& own(const Interface& object) {
  const auto* mine = dynamic_cast<const Packed*>(&object);
  FULGUR_ASSERT(mine != nullptr, "weights were packed by another backend or for another use");
  return *mine;
}

/// Bytes from row to row of packed left operands: an odd number of cache lines, so that the rows of
/// a tile do not compete for the same cache sets.
std::size_t row_stride(std::size_t cols, RowFormat format) {
  const std::size_t bytes = (cols + (cols & 1)) * (format == RowFormat::bf16 ? 2 : 4);
  return ((bytes + kCacheLine - 1) / kCacheLine | 1) * kCacheLine;
}

}  // namespace

std::shared_ptr<std::byte> CpuBackend::allocate(std::size_t bytes) {
  return allocate_pages(bytes, bytes <= kPopulateBytes, false);
}

std::shared_ptr<std::byte> CpuBackend::allocate_state(std::size_t bytes) {
  return allocate_pages(bytes, bytes <= kPopulateBytes, true);
}

void CpuBackend::upload(std::byte* device, const void* host, std::size_t bytes) {
  if (bytes > 0) std::memcpy(device, host, bytes);
}

void CpuBackend::download(void* host, const std::byte* device, std::size_t bytes) {
  if (bytes > 0) std::memcpy(host, device, bytes);
}

std::unique_ptr<Matrix> CpuBackend::pack(std::span<const HostMatrix> parts) {
  const auto sources = stacked_rows(parts);
  return std::make_unique<PanelMatrix>(sources.size(), parts[0].cols, sources, false);
}

std::unique_ptr<Matrix> CpuBackend::pack_table(const HostMatrix& table) {
  return std::make_unique<TableMatrix>(table);
}

std::unique_ptr<Matrix> CpuBackend::pack_router(const HostMatrix& router) {
  const auto sources = stacked_rows({&router, 1});
  return std::make_unique<PanelMatrix>(sources.size(), router.cols, sources, true);
}

std::unique_ptr<Expert> CpuBackend::pack_expert(const HostMatrix& gate, const HostMatrix& up,
                                                const HostMatrix& down) {
  return std::make_unique<PackedExpert>(gate, up, down);
}

void CpuBackend::reserve_scratch(std::size_t floats_per_thread) {
  const std::size_t stride = padded(floats_per_thread);
  if (stride > scratch_stride_) scratch_stride_ = stride;
  scratch_.reserve(scratch_stride_ * pool_.threads());
}

RowFormat CpuBackend::row_format(PanelType type) const {
  if (precision_ == Precision::f32) return RowFormat::f32;
  return type == PanelType::bf16 ? kernels_.bf16_rows : RowFormat::rounded;
}

void CpuBackend::embed(const Matrix& table, std::span<const std::uint32_t> ids, float* out) {
  const auto& matrix = own<TableMatrix>(table);
  const std::size_t dim = matrix.cols();
  for (std::size_t i = 0; i < ids.size(); ++i, out += dim) {
    FULGUR_ASSERT(ids[i] < matrix.rows(), "token id outside the embedding table");
    const std::byte* row = matrix.row(ids[i]);
    switch (matrix.dtype()) {
      case Dtype::f32:
        std::memcpy(out, row, dim * sizeof(float));
        break;
      case Dtype::bf16:
        kernels_.to_float(row, dim, out);
        break;
      case Dtype::f16:
        for (std::size_t d = 0; d < dim; ++d) {
          std::uint16_t bits;
          std::memcpy(&bits, row + 2 * d, sizeof bits);
          out[d] = half_to_float(bits);
        }
        break;
    }
  }
}

void CpuBackend::norm_rows(const NormTask& first, std::size_t rows) {
  const FlushSubnormals mode;
  for_row_ranges(pool_, rows, first.dim, [&](std::size_t begin, std::size_t end) {
    for (std::size_t row = begin; row < end; ++row) {
      NormTask task = first;
      task.x += row * first.dim;
      task.out += row * first.dim;
      if (task.gate != nullptr) task.gate += row * first.dim;
      kernels_.norm(task);
    }
  });
}

void CpuBackend::rms_norm(const float* x, const float* weight, float eps, std::size_t rows,
                          std::size_t dim, float* out) {
  norm_rows({x, weight, nullptr, eps, dim, out}, rows);
}

void CpuBackend::norm_gate(const float* o, const float* gate, const float* weight, float eps,
                           std::size_t rows, std::size_t dim, float* out) {
  norm_rows({o, weight, gate, eps, dim, out}, rows);
}

void CpuBackend::scale_add(float alpha, const float* x, float beta, const float* y,
                           std::size_t count, float* out) {
  const FlushSubnormals mode;
  constexpr std::size_t kChunk = 4096;
  for_row_ranges(pool_, (count + kChunk - 1) / kChunk, kChunk, [&](std::size_t b, std::size_t e) {
    const std::size_t begin = b * kChunk;
    const std::size_t end = std::min(count, e * kChunk);
    kernels_.scale_add(alpha, x + begin, beta, y + begin, end - begin, out + begin);
  });
}

template <class Source>
void CpuBackend::pack_rows(const void* x, bool x_is_bf16, std::size_t rows, std::size_t cols,
                           RowFormat format, const Source& source, Rows& packed) {
  packed.format = format;
  packed.row_bytes = row_stride(cols, format);
  std::byte* data = packed.data.reserve(packed.row_bytes * rows);
  const auto* from = static_cast<const std::byte*>(x);
  const std::size_t source_bytes = cols * (x_is_bf16 ? 2 : 4);
  for_row_ranges(pool_, rows, cols, [&](std::size_t begin, std::size_t end) {
    for (std::size_t row = begin; row < end; ++row) {
      kernels_.pack_row(from + source(row) * source_bytes, x_is_bf16, cols, format,
                        data + row * packed.row_bytes);
    }
  });
}

/// Rows are cut into blocks of equal size up to a multiple of the kernel's tile.
std::size_t CpuBackend::rows_per_block(std::size_t rows) const {
  const std::size_t blocks = (rows + kRowsPerUnit - 1) / kRowsPerUnit;
  const std::size_t even = (rows + blocks - 1) / blocks;
  return (even + kernels_.row_tile - 1) / kernels_.row_tile * kernels_.row_tile;
}

void CpuBackend::multiply(const Rows& rows, std::size_t row, std::size_t m,
                          const PanelMatrix& weight, std::size_t panel, const std::byte* next,
                          float* tile) const {
  const ProductTask task{.rows = rows.data.data() + row * rows.row_bytes,
                         .row_bytes = rows.row_bytes,
                         .m = m,
                         .panel = weight.panel(panel),
                         .pairs = weight.pairs(),
                         .vecs = weight.vecs(panel),
                         .out = tile,
                         .next_panel = next};
  if (weight.type() == PanelType::f32) {
    kernels_.product_f32_f32(task);
  } else if (rows.format == RowFormat::bf16) {
    kernels_.product_bf16(task);
  } else {
    kernels_.product_f32_bf16(task);
  }
}

void CpuBackend::product(const Rows& rows, std::size_t m, const PanelMatrix& weight, float* out) {
  reserve_scratch(kRowsPerUnit * kPanelColumns);
  const std::size_t block_rows = rows_per_block(m);
  const std::size_t blocks = (m + block_rows - 1) / block_rows;
  const std::size_t out_stride = weight.rows() * sizeof(float);
  const auto unit_work = [&](std::size_t unit, std::uint32_t thread) {
    // All panels pass over one block of rows, which stays in the second-level cache.
    const std::size_t panel = unit % weight.panels();
    const std::size_t row = unit / weight.panels() * block_rows;
    const std::size_t count = std::min(block_rows, m - row);
    const std::size_t column = panel * kPanelColumns;
    float* tile = thread_scratch(thread);
    const std::size_t next = (unit + pool_.threads()) % weight.panels();
    multiply(rows, row, count, weight, panel, weight.panel(next), tile);
    kernels_.store_tile(tile, count, std::min(kPanelColumns, weight.rows() - column), false,
                        reinterpret_cast<std::byte*>(out + column) + row * out_stride, out_stride);
  };
  run_units(pool_, blocks * weight.panels(), weight.bytes() * m >= kForkBytes, unit_work);
}

void CpuBackend::matmul(const float* x, std::size_t rows, const Matrix& weight, float* out) {
  const FlushSubnormals mode;
  if (rows == 0) return;
  const auto& matrix = own<PanelMatrix>(weight);
  pack_rows(x, false, rows, matrix.cols(), row_format(matrix.type()), std::identity(), input_);
  product(input_, rows, matrix, out);
}

void CpuBackend::route(const float* y, std::size_t rows, const Matrix& router, std::uint32_t k,
                       std::uint16_t* experts, float* weights) {
  const FlushSubnormals mode;
  if (rows == 0) return;
  const auto& matrix = own<PanelMatrix>(router);
  FULGUR_ASSERT(matrix.type() == PanelType::f32, "route needs a matrix from pack_router");
  const std::size_t total = matrix.rows();
  FULGUR_ASSERT(k >= 1 && k <= total, "top-k outside the number of experts");
  float* logits = logits_.reserve(rows * total);
  pack_rows(y, false, rows, matrix.cols(), RowFormat::f32, std::identity(), input_);
  product(input_, rows, matrix, logits);
  for_row_ranges(pool_, rows, total * 4, [&](std::size_t begin, std::size_t end) {
    for (std::size_t row = begin; row < end; ++row) {
      float* x = logits + row * total;
      kernels_.exp_shifted(x, total, *std::max_element(x, x + total));
      select_experts(x, static_cast<std::uint32_t>(total), k, experts + row * k, weights + row * k);
    }
  });
}

void CpuBackend::gather(const float* y, std::span<const std::uint32_t> rows, std::size_t dim,
                        Dtype dtype, std::byte* out) {
  FULGUR_ASSERT(dtype != Dtype::f16, "f16 activations are not supported");
  const std::size_t row_bytes = dim * size_of(dtype);
  for (std::size_t i = 0; i < rows.size(); ++i, out += row_bytes) {
    if (dtype == Dtype::f32) {
      std::memcpy(out, y + rows[i] * dim, row_bytes);
    } else {
      kernels_.to_bf16(y + rows[i] * dim, dim, out);
    }
  }
}

void CpuBackend::copy_rows(std::span<const RowCopy> rows, std::size_t row_bytes) {
  for (const RowCopy& row : rows) std::memcpy(row.to, row.from, row_bytes);
}

void CpuBackend::combine(const float* y, std::size_t rows, std::size_t hidden, std::uint32_t k,
                         const float* weights, std::span<const std::byte* const> outputs,
                         Dtype dtype, float alpha, float beta, float* out) {
  const FlushSubnormals mode;
  FULGUR_ASSERT(outputs.size() == rows * k, "combine needs rows * k outputs");
  FULGUR_ASSERT(dtype != Dtype::f16, "f16 activations are not supported");
  for_row_ranges(pool_, rows, hidden, [&](std::size_t begin, std::size_t end) {
    for (std::size_t row = begin; row < end; ++row) {
      kernels_.combine(y + row * hidden, hidden, k, weights + row * k, outputs.data() + row * k,
                       dtype == Dtype::bf16, alpha, beta, out + row * hidden);
    }
  });
}

void CpuBackend::plan_groups(std::span<const ExpertGroup> groups, std::size_t hidden) {
  blocks_.clear();
  group_rows_.clear();
  for (const ExpertGroup& group : groups) {
    FULGUR_ASSERT(group.expert != nullptr, "an expert group needs an expert");
    const auto& expert = own<PackedExpert>(*group.expert);
    FULGUR_ASSERT(expert.gate_up.cols() == hidden, "hidden size does not fit the expert");
    if (group.rows.empty()) continue;
    const std::size_t block_rows = rows_per_block(group.rows.size());
    for (std::size_t row = 0; row < group.rows.size(); row += block_rows) {
      blocks_.push_back({&expert, group_rows_.size() + row, group.output + row,
                         std::min(block_rows, group.rows.size() - row), 0});
    }
    group_rows_.insert(group_rows_.end(), group.rows.begin(), group.rows.end());
  }
}

template <class Finish>
void CpuBackend::run_groups(const Rows& rows, bool down, const Finish& finish) {
  const auto matrix_of = [down](const GroupBlock& block) -> const PanelMatrix& {
    return down ? block.expert->down : block.expert->gate_up;
  };
  std::size_t units = 0;
  std::size_t bytes = 0;
  for (GroupBlock& block : blocks_) {
    const PanelMatrix& weight = matrix_of(block);
    block.first_unit = units;
    units += weight.panels();
    bytes += weight.bytes() * block.rows;
  }
  run_units(pool_, units, bytes >= kForkBytes, [&](std::size_t unit, std::uint32_t thread) {
    const auto after = std::upper_bound(
        blocks_.begin(), blocks_.end(), unit,
        [](std::size_t u, const GroupBlock& block) { return u < block.first_unit; });
    const auto block = after - 1;
    const std::size_t panel = unit - block->first_unit;
    // Threads take units in turn, so this is the one that comes next on this thread.
    const std::size_t later = std::min(unit + pool_.threads(), units - 1);
    auto next = block;
    while (std::next(next) != blocks_.end() && std::next(next)->first_unit <= later) ++next;
    float* tile = thread_scratch(thread);
    multiply(rows, block->first_row, block->rows, matrix_of(*block), panel,
             matrix_of(*next).panel(later - next->first_unit), tile);
    finish(*block, matrix_of(*block), panel, tile);
  });
}

void CpuBackend::experts(const std::byte* x, Dtype x_dtype, std::size_t hidden,
                         std::span<const ExpertGroup> groups, std::byte* out, Dtype out_dtype) {
  const FlushSubnormals mode;
  FULGUR_ASSERT(x_dtype != Dtype::f16 && out_dtype != Dtype::f16,
                "f16 activations are not supported");
  // Experts whose weights do not fit bf16 need float32 rows; one call serves one kind at a time.
  std::vector<ExpertGroup>& pending = pending_;
  for (const bool wide : {false, true}) {
    pending.clear();
    for (const ExpertGroup& group : groups) {
      FULGUR_ASSERT(group.expert != nullptr, "an expert group needs an expert");
      if (own<PackedExpert>(*group.expert).wide() == wide) pending.push_back(group);
    }
    if (!pending.empty()) run_experts(x, x_dtype, hidden, wide, out, out_dtype);
  }
}

void CpuBackend::run_experts(const std::byte* x, Dtype x_dtype, std::size_t hidden, bool wide,
                             std::byte* out, Dtype out_dtype) {
  const RowFormat format = row_format(wide ? PanelType::f32 : PanelType::bf16);
  std::size_t inner_size = 0;
  for (const ExpertGroup& group : pending_) {
    inner_size = std::max(inner_size, own<PackedExpert>(*group.expert).gate_up.rows());
  }
  plan_groups(pending_, hidden);
  const std::size_t rows = group_rows_.size();
  // Each group's rows lie together: a tile of rows is one strided load.
  pack_rows(
      x, x_dtype == Dtype::bf16, rows, hidden, format,
      [this](std::size_t row) { return group_rows_[row]; }, input_);
  reserve_scratch(kRowsPerUnit * kPanelColumns);

  inner_.format = format;
  inner_.row_bytes = row_stride(inner_size, format);
  std::byte* inner = inner_.data.reserve(inner_.row_bytes * rows);

  constexpr std::size_t kHalf = kPanelColumns / 2;
  const std::size_t element = format == RowFormat::bf16 ? 2 : 4;
  run_groups(input_, false,
             [&](const GroupBlock& block, const PanelMatrix& weight, std::size_t panel,
                 const float* tile) {
               // The inner size is padded to even with zeros: silu(0) * 0.
               const std::size_t size = weight.rows() + (weight.rows() & 1);
               kernels_.silu_tile(
                   tile, block.rows, std::min(kHalf, size - panel * kHalf), format,
                   inner + block.first_row * inner_.row_bytes + panel * kHalf * element,
                   inner_.row_bytes);
             });
  const std::size_t out_bytes = hidden * size_of(out_dtype);
  run_groups(
      inner_, true,
      [&](const GroupBlock& block, const PanelMatrix&, std::size_t panel, const float* tile) {
        const std::size_t column = panel * kPanelColumns;
        kernels_.store_tile(
            tile, block.rows, std::min(kPanelColumns, hidden - column), out_dtype == Dtype::bf16,
            out + block.output * out_bytes + column * size_of(out_dtype), out_bytes);
      });
}

}  // namespace fulgur::kernels::cpu
