// Matrix products, experts, routing and elementwise operations of the definition.
#include "kernels/reference/reference_backend.hpp"

#include <cstring>

#include "common/base/assert.hpp"
#include "common/base/memory.hpp"
#include "kernels/reference/scalar_math.hpp"
#include "kernels/reference/tables.hpp"

namespace fulgur::kernels {
namespace {

class ReferenceExpert final : public Expert {
 public:
  std::size_t bytes() const override { return gate->bytes() + up->bytes() + down->bytes(); }
  std::unique_ptr<ReferenceMatrix> gate, up, down;
};

const ReferenceMatrix& own(const Matrix& matrix) {
  const auto* mine = dynamic_cast<const ReferenceMatrix*>(&matrix);
  FULGUR_ASSERT(mine != nullptr, "matrix was packed by another backend");
  return *mine;
}

/// Element i of an array of dtype at a possibly unaligned address.
float element(const void* data, Dtype dtype, std::size_t i) {
  const auto* bytes = static_cast<const std::byte*>(data) + i * size_of(dtype);
  if (dtype == Dtype::f32) {
    float value;
    std::memcpy(&value, bytes, sizeof value);
    return value;
  }
  std::uint16_t bits;
  std::memcpy(&bits, bytes, sizeof bits);
  return dtype == Dtype::bf16 ? to_float(Bf16{bits}) : half_to_float(bits);
}

void set_element(std::byte* data, Dtype dtype, std::size_t i, float value) {
  FULGUR_ASSERT(dtype != Dtype::f16, "f16 activations are not supported");
  if (dtype == Dtype::f32) {
    std::memcpy(data + i * sizeof value, &value, sizeof value);
  } else {
    const Bf16 rounded = to_bf16(value);
    std::memcpy(data + i * sizeof rounded, &rounded, sizeof rounded);
  }
}

std::unique_ptr<ReferenceMatrix> unpack(std::span<const HostMatrix> parts) {
  FULGUR_ASSERT(!parts.empty(), "pack of no matrices");
  std::size_t rows = 0;
  for (const HostMatrix& part : parts) rows += part.rows;
  auto matrix = std::make_unique<ReferenceMatrix>(rows, parts[0].cols);
  for (const HostMatrix& part : parts) {
    FULGUR_ASSERT(part.cols == parts[0].cols, "packed matrices need equal cols");
    for (std::size_t i = 0; i < part.rows * part.cols; ++i) {
      matrix->values.push_back(element(part.data, part.dtype, i));
      const float value = matrix->values.back();
      matrix->narrow &= to_float(to_bf16(value)) == value;
    }
  }
  return matrix;
}

/// x · w in the order ProductOrder::tiles.
float sum_by_tiles(const float* x, const float* w, std::size_t cols) {
  float sum = 0;
  for (std::size_t begin = 0; begin < cols; begin += kOrderTile) {
    float even = 0;
    float odd = 0;
    for (std::size_t k = begin; k < std::min<std::size_t>(begin + kOrderTile, cols); k += 2) {
      even = std::fma(x[k], w[k], even);
      odd = k + 1 < cols ? std::fma(x[k + 1], w[k + 1], odd) : std::fma(0.0F, 0.0F, odd);
    }
    sum += even + odd;
  }
  return sum;
}

/// out[n] = sum over k of x[k] weight[n, k] in the order of the definition.
void product_row(const float* x, const ReferenceMatrix& weight, ProductOrder order, float* out) {
  const std::size_t cols = weight.cols();
  for (std::size_t n = 0; n < weight.rows(); ++n) {
    const float* w = weight.values.data() + n * cols;
    if (order == ProductOrder::tiles) {
      out[n] = sum_by_tiles(x, w, cols);
      continue;
    }
    float sum = 0;
    for (std::size_t k = 0; k < cols; k += 2) {
      sum = k + 1 < cols ? std::fma(x[k + 1], w[k + 1], sum) : std::fma(0.0F, 0.0F, sum);
      sum = std::fma(x[k], w[k], sum);
    }
    out[n] = sum;
  }
}

float mean_square_scale(const float* x, std::size_t dim, float eps) {
  float lanes[kLanes] = {};
  for (std::size_t i = 0; i < dim; ++i) lanes[i % kLanes] = std::fma(x[i], x[i], lanes[i % kLanes]);
  return 1.0F / std::sqrt(sum_lanes(lanes) / static_cast<float>(dim) + eps);
}

}  // namespace

std::shared_ptr<std::byte> ReferenceBackend::allocate(std::size_t bytes) {
  auto buffer = std::make_shared<AlignedBuffer<std::byte>>(std::max<std::size_t>(bytes, 1));
  std::memset(buffer->data(), 0, bytes);
  return {buffer, buffer->data()};
}

void ReferenceBackend::upload(std::byte* device, const void* host, std::size_t bytes) {
  if (bytes > 0) std::memcpy(device, host, bytes);
}

void ReferenceBackend::download(void* host, const std::byte* device, std::size_t bytes) {
  if (bytes > 0) std::memcpy(host, device, bytes);
}

std::unique_ptr<Matrix> ReferenceBackend::pack(std::span<const HostMatrix> parts) {
  return unpack(parts);
}

std::unique_ptr<Matrix> ReferenceBackend::pack_table(const HostMatrix& table) {
  return unpack({&table, 1});
}

std::unique_ptr<Matrix> ReferenceBackend::pack_router(const HostMatrix& router) {
  return unpack({&router, 1});
}

std::unique_ptr<Expert> ReferenceBackend::pack_expert(const HostMatrix& gate, const HostMatrix& up,
                                                      const HostMatrix& down) {
  FULGUR_ASSERT(gate.rows == up.rows && gate.cols == up.cols && down.cols == gate.rows &&
                    down.rows == gate.cols,
                "shapes of an expert's matrices do not fit together");
  auto expert = std::make_unique<ReferenceExpert>();
  expert->gate = unpack({&gate, 1});
  expert->up = unpack({&up, 1});
  expert->down = unpack({&down, 1});
  return expert;
}

void ReferenceBackend::embed(const Matrix& table, std::span<const std::uint32_t> ids, float* out) {
  const ReferenceMatrix& matrix = own(table);
  const std::size_t dim = matrix.cols();
  for (std::size_t i = 0; i < ids.size(); ++i) {
    FULGUR_ASSERT(ids[i] < matrix.rows(), "token id outside the embedding table");
    std::copy_n(matrix.values.data() + ids[i] * dim, dim, out + i * dim);
  }
}

void ReferenceBackend::rms_norm(const float* x, const float* weight, float eps, std::size_t rows,
                                std::size_t dim, float* out) {
  const FlushSubnormals mode;
  for (std::size_t row = 0; row < rows; ++row, x += dim, out += dim) {
    const float scale = mean_square_scale(x, dim, eps);
    for (std::size_t i = 0; i < dim; ++i) out[i] = x[i] * scale * weight[i];
  }
}

void ReferenceBackend::matmul(const float* x, std::size_t rows, const Matrix& weight, float* out) {
  const FlushSubnormals mode;
  const ReferenceMatrix& matrix = own(weight);
  std::vector<float> operand(matrix.cols());
  for (std::size_t row = 0; row < rows; ++row) {
    for (std::size_t k = 0; k < operand.size(); ++k) {
      operand[k] = stored(x[row * operand.size() + k], precision_);
    }
    product_row(operand.data(), matrix, order_of(matrix), out + row * matrix.rows());
  }
}

void ReferenceBackend::scale_add(float alpha, const float* x, float beta, const float* y,
                                 std::size_t count, float* out) {
  const FlushSubnormals mode;
  for (std::size_t i = 0; i < count; ++i) out[i] = alpha * x[i] + beta * y[i];
}

void ReferenceBackend::norm_gate(const float* o, const float* gate, const float* weight, float eps,
                                 std::size_t rows, std::size_t dim, float* out) {
  const FlushSubnormals mode;
  for (std::size_t row = 0; row < rows; ++row, o += dim, gate += dim, out += dim) {
    const float scale = mean_square_scale(o, dim, eps);
    for (std::size_t i = 0; i < dim; ++i) {
      out[i] = o[i] * scale * weight[i] * sigmoid_fixed(gate[i]);
    }
  }
}

void ReferenceBackend::route(const float* y, std::size_t rows, const Matrix& router,
                             std::uint32_t k, std::uint16_t* experts, float* weights) {
  const FlushSubnormals mode;
  const ReferenceMatrix& matrix = own(router);
  const auto total = static_cast<std::uint32_t>(matrix.rows());
  FULGUR_ASSERT(k >= 1 && k <= total, "top-k outside the number of experts");
  std::vector<float> logits(total);
  for (std::size_t row = 0; row < rows; ++row) {
    product_row(y + row * matrix.cols(), matrix, ProductOrder::pairs, logits.data());
    const float largest = *std::max_element(logits.begin(), logits.end());
    for (float& logit : logits) logit = exp_fixed(logit - largest);
    select_experts(logits.data(), total, k, experts + row * k, weights + row * k);
  }
}

void ReferenceBackend::gather(const float* y, std::span<const std::uint32_t> rows, std::size_t dim,
                              Dtype dtype, std::byte* out) {
  for (std::size_t i = 0; i < rows.size(); ++i) {
    for (std::size_t d = 0; d < dim; ++d) {
      set_element(out, dtype, i * dim + d, y[rows[i] * dim + d]);
    }
  }
}

void ReferenceBackend::copy_rows(std::span<const RowCopy> rows, std::size_t row_bytes) {
  for (const RowCopy& row : rows) std::copy_n(row.from, row_bytes, row.to);
}

void ReferenceBackend::experts(const std::byte* x, Dtype x_dtype, std::size_t hidden,
                               std::span<const ExpertGroup> groups, std::byte* out,
                               Dtype out_dtype) {
  const FlushSubnormals mode;
  for (const ExpertGroup& group : groups) {
    const auto* expert = dynamic_cast<const ReferenceExpert*>(group.expert);
    FULGUR_ASSERT(expert != nullptr, "expert was packed by another backend");
    FULGUR_ASSERT(expert->gate->cols() == hidden, "hidden size does not fit the expert");
    // One float32 weight of an expert makes all its rows float32.
    const bool narrow = expert->gate->narrow && expert->up->narrow && expert->down->narrow;
    const ProductOrder order = narrow ? order_of(*expert->gate) : ProductOrder::pairs;
    std::vector<float> row(hidden), up(expert->up->rows()), inner(expert->gate->rows());
    for (std::size_t i = 0; i < group.rows.size(); ++i) {
      for (std::size_t d = 0; d < hidden; ++d) {
        row[d] = stored(element(x, x_dtype, group.rows[i] * hidden + d), precision_);
      }
      product_row(row.data(), *expert->gate, order, inner.data());
      product_row(row.data(), *expert->up, order, up.data());
      for (std::size_t f = 0; f < inner.size(); ++f) {
        inner[f] = stored(silu_fixed(inner[f]) * up[f], precision_);
      }
      product_row(inner.data(), *expert->down, order, row.data());
      for (std::size_t d = 0; d < hidden; ++d) {
        set_element(out, out_dtype, (group.output + i) * hidden + d, row[d]);
      }
    }
  }
}

void ReferenceBackend::combine(const float* y, std::size_t rows, std::size_t hidden,
                               std::uint32_t k, const float* weights,
                               std::span<const std::byte* const> outputs, Dtype dtype, float alpha,
                               float beta, float* out) {
  const FlushSubnormals mode;
  FULGUR_ASSERT(outputs.size() == rows * k, "combine needs rows * k outputs");
  for (std::size_t row = 0; row < rows; ++row) {
    for (std::size_t d = 0; d < hidden; ++d) {
      float sum = 0;
      for (std::size_t s = row * k; s < (row + 1) * k; ++s) {
        sum = std::fma(weights[s], element(outputs[s], dtype, d), sum);
      }
      out[row * hidden + d] = alpha * y[row * hidden + d] + beta * sum;
    }
  }
}

std::unique_ptr<Backend> make_reference_backend(Precision precision, ProductOrder order) {
  return std::make_unique<ReferenceBackend>(precision, order);
}

}  // namespace fulgur::kernels
