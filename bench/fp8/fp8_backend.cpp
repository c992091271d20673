#include "bench/fp8/fp8_backend.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "common/base/assert.hpp"
#include "common/base/bf16.hpp"
#include "common/base/e4m3.hpp"
#include "kernels/reference/scalar_math.hpp"

namespace fulgur::bench {
namespace {

constexpr std::size_t kBlock = kE4m3Block;

std::size_t blocks_of(std::size_t count) { return (count + kBlock - 1) / kBlock; }

float element(const std::byte* data, Dtype dtype, std::size_t i) {
  data += i * size_of(dtype);
  if (dtype == Dtype::f32) {
    float value;
    std::memcpy(&value, data, sizeof value);
    return value;
  }
  std::uint16_t bits;
  std::memcpy(&bits, data, sizeof bits);
  return dtype == Dtype::bf16 ? to_float(Bf16{bits}) : half_to_float(bits);
}

void set_element(std::byte* data, Dtype dtype, std::size_t i, float value) {
  if (dtype == Dtype::f32) {
    std::memcpy(data + i * sizeof value, &value, sizeof value);
  } else {
    const Bf16 rounded = to_bf16(value);
    std::memcpy(data + i * sizeof rounded, &rounded, sizeof rounded);
  }
}

/// Values of codes, before the scales.
struct Quantized {
  std::vector<float> codes;   ///< [rows, cols]
  std::vector<float> scales;  ///< [blocks of rows, blocks of cols]
  std::size_t rows = 0;
  std::size_t cols = 0;
};

/// Quantises the part [row, row_end) x [col, col_end) with one scale, in place.
float quantize(Quantized& matrix, std::size_t row, std::size_t row_end, std::size_t col,
               std::size_t col_end) {
  float top = 0;
  for (std::size_t r = row; r < row_end; ++r) {
    for (std::size_t c = col; c < col_end; ++c) {
      top = std::max(top, std::abs(matrix.codes[r * matrix.cols + c]));
    }
  }
  const E4m3Scale scale = e4m3_scale(top);
  for (std::size_t r = row; r < row_end; ++r) {
    for (std::size_t c = col; c < col_end; ++c) {
      float& value = matrix.codes[r * matrix.cols + c];
      value = to_float(to_e4m3(value * scale.inverse));
    }
  }
  return scale.scale;
}

Quantized quantize_weight(const kernels::HostMatrix& weight) {
  Quantized matrix{{}, {}, weight.rows, weight.cols};
  for (std::size_t i = 0; i < weight.rows * weight.cols; ++i) {
    matrix.codes.push_back(element(static_cast<const std::byte*>(weight.data), weight.dtype, i));
  }
  for (std::size_t r = 0; r < weight.rows; r += kBlock) {
    for (std::size_t c = 0; c < weight.cols; c += kBlock) {
      matrix.scales.push_back(quantize(matrix, r, std::min(r + kBlock, weight.rows), c,
                                       std::min(c + kBlock, weight.cols)));
    }
  }
  return matrix;
}

/// One row of activations; not quantised: scales of 1.
Quantized quantize_row(std::vector<float> row, bool quantized) {
  Quantized matrix{std::move(row), {}, 1, 0};
  matrix.cols = matrix.codes.size();
  for (std::size_t c = 0; c < matrix.cols; c += kBlock) {
    matrix.scales.push_back(quantized ? quantize(matrix, 0, 1, c, std::min(c + kBlock, matrix.cols))
                                      : 1.0F);
  }
  return matrix;
}

/// out[n] = sum over blocks, ascending, of (weight scale * row scale) * (sum inside the block).
std::vector<float> product(const Quantized& x, const Quantized& weight) {
  std::vector<float> out(weight.rows);
  const std::size_t blocks = blocks_of(weight.cols);
  for (std::size_t n = 0; n < weight.rows; ++n) {
    const float* w = weight.codes.data() + n * weight.cols;
    float sum = 0;
    for (std::size_t b = 0; b < blocks; ++b) {
      float part = 0;
      for (std::size_t c = b * kBlock; c < std::min((b + 1) * kBlock, weight.cols); ++c) {
        part = std::fma(x.codes[c], w[c], part);
      }
      sum = std::fma(part, weight.scales[n / kBlock * blocks + b] * x.scales[b], sum);
    }
    out[n] = sum;
  }
  return out;
}

class Fp8Expert final : public kernels::Expert {
 public:
  Fp8Expert(Quantized gate_rows, Quantized up_rows, Quantized down_rows)
      : gate(std::move(gate_rows)), up(std::move(up_rows)), down(std::move(down_rows)) {}
  std::size_t bytes() const override { return 3 * gate.rows * gate.cols; }

  const Quantized gate, up, down;
};

}  // namespace

std::unique_ptr<kernels::Expert> Fp8Backend::pack_expert(const kernels::HostMatrix& gate,
                                                         const kernels::HostMatrix& up,
                                                         const kernels::HostMatrix& down) {
  return std::make_unique<Fp8Expert>(quantize_weight(gate), quantize_weight(up),
                                     quantize_weight(down));
}

void Fp8Backend::experts(const std::byte* x, Dtype x_dtype, std::size_t hidden,
                         std::span<const kernels::ExpertGroup> groups, std::byte* out,
                         Dtype out_dtype) {
  for (const kernels::ExpertGroup& group : groups) {
    const auto* expert = dynamic_cast<const Fp8Expert*>(group.expert);
    FULGUR_ASSERT(expert != nullptr, "expert was packed by another backend");
    for (std::size_t i = 0; i < group.rows.size(); ++i) {
      std::vector<float> row(hidden);
      for (std::size_t d = 0; d < hidden; ++d) {
        row[d] = element(x, x_dtype, group.rows[i] * hidden + d);
      }
      const Quantized input = quantize_row(std::move(row), activations_);
      std::vector<float> inner = product(input, expert->gate);
      const std::vector<float> up = product(input, expert->up);
      for (std::size_t f = 0; f < inner.size(); ++f) {
        inner[f] = kernels::silu_fixed(inner[f]) * up[f];
      }
      const std::vector<float> result =
          product(quantize_row(std::move(inner), activations_), expert->down);
      for (std::size_t d = 0; d < hidden; ++d) {
        set_element(out, out_dtype, (group.output + i) * hidden + d, result[d]);
      }
    }
  }
}

}  // namespace fulgur::bench
