// Matrix products of the portable kernels: a thread owns kColumns output columns of kRows rows over
// all of K, in the definition's order (pairs ascending, the odd one of a pair first, fused). No
// shared memory: neighbouring threads read neighbouring words of the weight, and all of them the
// same words of x.
#include "kernels/cuda/portable/device.cuh"
#include "kernels/cuda/portable/portable.hpp"

namespace fulgur::kernels::cuda::portable {
namespace {

constexpr unsigned kThreads = 64;
constexpr std::uint32_t kColumns = 2;

/// The two elements of pair `pair` of weight row n.
FULGUR_DEVICE void load_pair(const float* weight, std::size_t index, float& even, float& odd) {
  even = weight[2 * index];
  odd = weight[2 * index + 1];
}
FULGUR_DEVICE void load_pair(const std::uint32_t* weight, std::size_t index, float& even,
                             float& odd) {
  const std::uint32_t both = weight[index];
  even = __uint_as_float(both << 16);
  odd = __uint_as_float(both & 0xffff0000U);
}

/// The rows and columns of one thread.
template <std::uint32_t kRows>
struct Tile {
  const float* x[kRows];
  std::uint32_t rows;               ///< of kRows, the rest repeat the last
  std::uint32_t columns[kColumns];  ///< repeated at the edge, too
};

template <std::uint32_t kRows, class Word>
FULGUR_DEVICE void multiply(const Tile<kRows>& tile, const Word* weight, std::uint32_t features,
                            std::uint32_t cols, float (&sum)[kRows][kColumns]) {
  const std::uint32_t pairs = cols / 2;
  for (std::uint32_t pair = 0; pair < pairs; ++pair) {
    for (std::uint32_t c = 0; c < kColumns; ++c) {
      float even, odd;
      load_pair(weight, static_cast<std::size_t>(pair) * features + tile.columns[c], even, odd);
      for (std::uint32_t r = 0; r < kRows; ++r) {
        sum[r][c] = fmaf(tile.x[r][2 * pair + 1], odd, sum[r][c]);
        sum[r][c] = fmaf(tile.x[r][2 * pair], even, sum[r][c]);
      }
    }
  }
  if (cols % 2 == 0) return;
  for (std::uint32_t c = 0; c < kColumns; ++c) {
    float even, odd;
    load_pair(weight, static_cast<std::size_t>(pairs) * features + tile.columns[c], even, odd);
    for (std::uint32_t r = 0; r < kRows; ++r) {
      sum[r][c] = fmaf(0.0F, odd, sum[r][c]);  // odd is zero, and -0 becomes +0
      sum[r][c] = fmaf(tile.x[r][2 * pairs], even, sum[r][c]);
    }
  }
}

template <std::uint32_t kRows>
__global__ void product_kernel(const float* x, const std::uint32_t* list,
                               const ProductGroup* groups, ProductGroup only, std::uint32_t cols,
                               std::uint32_t features, float* out) {
  const ProductGroup group = groups != nullptr ? groups[blockIdx.z] : only;
  const std::uint32_t first = blockIdx.y * kRows;
  if (first >= group.rows) return;
  phase([&](unsigned thread) {
    const std::uint32_t column = blockIdx.x * kThreads * kColumns + thread;
    if (column >= features) return;
    Tile<kRows> tile;
    tile.rows = group.rows - first < kRows ? group.rows - first : kRows;
    for (std::uint32_t r = 0; r < kRows; ++r) {
      const std::uint32_t at = group.first + first + (r < tile.rows ? r : tile.rows - 1);
      tile.x[r] = x + static_cast<std::size_t>(list != nullptr ? list[at] : at) * cols;
    }
    for (std::uint32_t c = 0; c < kColumns; ++c) {
      const std::uint32_t own = column + c * kThreads;
      tile.columns[c] = own < features ? own : column;
    }
    float sum[kRows][kColumns] = {};
    if (group.weight.dtype == Dtype::f32) {
      multiply(tile, static_cast<const float*>(group.weight.data), features, cols, sum);
    } else {
      multiply(tile, static_cast<const std::uint32_t*>(group.weight.data), features, cols, sum);
    }
    for (std::uint32_t r = 0; r < tile.rows; ++r) {
      for (std::uint32_t c = 0; c < kColumns; ++c) {
        out[static_cast<std::size_t>(group.first + first + r) * features + tile.columns[c]] =
            sum[r][c];
      }
    }
  });
}

cudaError_t launch(const float* x, const std::uint32_t* list, const ProductGroup* groups,
                   const ProductGroup& only, std::uint32_t count, std::uint32_t rows_max,
                   std::uint32_t cols, std::uint32_t features, float* out, cudaStream_t stream) {
  constexpr std::uint32_t kTall = 4;
  constexpr std::uint32_t kTilesMax = 65535;  // of grid.y
  if (rows_max == 0 || count == 0) return cudaSuccess;
  const unsigned across = blocks_for(features, kThreads * kColumns);
  if (rows_max == 1) {
    return start(product_kernel<1>, dim3(across, 1, count), kThreads, stream, x, list, groups, only,
                 cols, features, out);
  }
  const unsigned down = blocks_for(rows_max, kTall);
  if (down > kTilesMax) return cudaErrorInvalidValue;
  return start(product_kernel<kTall>, dim3(across, down, count), kThreads, stream, x, list, groups,
               only, cols, features, out);
}

/// One thread an element of the source.
__global__ void pack_kernel(const void* source, Dtype source_dtype, std::size_t count,
                            std::uint32_t first_row, Weight weight, void* data) {
  phase([&](unsigned thread) {
    const std::size_t index = static_cast<std::size_t>(blockIdx.x) * blockDim.x + thread;
    if (index >= count) return;
    const std::size_t row = first_row + index / weight.cols;
    const std::size_t col = index % weight.cols;
    const std::size_t to = (col / 2 * weight.rows + row) * 2 + col % 2;
    if (weight.dtype == Dtype::f32) {
      static_cast<float*>(data)[to] = element(source, source_dtype, index);
    } else {
      static_cast<std::uint16_t*>(data)[to] = static_cast<const std::uint16_t*>(source)[index];
    }
  });
}

/// splitmix64 of (seed, index): four uniform 16-bit numbers, whose sum is roughly normal.
__global__ void fill_kernel(std::uint64_t seed, float scale, std::size_t count, Dtype dtype,
                            void* data) {
  phase([&](unsigned thread) {
    const std::size_t index = static_cast<std::size_t>(blockIdx.x) * blockDim.x + thread;
    if (index >= count) return;
    std::uint64_t bits = seed + (index + 1) * 0x9e3779b97f4a7c15U;
    bits = (bits ^ (bits >> 30)) * 0xbf58476d1ce4e5b9U;
    bits = (bits ^ (bits >> 27)) * 0x94d049bb133111ebU;
    bits ^= bits >> 31;
    int sum = -2 * 65535;
    for (int part = 0; part < 4; ++part) sum += static_cast<int>((bits >> (16 * part)) & 0xffffU);
    const std::uint16_t value = bf16_bits(static_cast<float>(sum) * scale);
    if (dtype == Dtype::f32) {
      static_cast<float*>(data)[index] = bf16_value(value);
    } else {
      static_cast<std::uint16_t*>(data)[index] = value;
    }
  });
}

}  // namespace

cudaError_t pack(const void* source, Dtype source_dtype, std::uint32_t rows,
                 std::uint32_t first_row, const Weight& weight, void* data, cudaStream_t stream) {
  if (weight.dtype == Dtype::bf16 && source_dtype != Dtype::bf16) return cudaErrorInvalidValue;
  const std::size_t count = static_cast<std::size_t>(rows) * weight.cols;
  return start(pack_kernel, dim3(blocks_for(count, 256)), 256, stream, source, source_dtype, count,
               first_row, weight, data);
}

cudaError_t fill(std::uint64_t seed, float deviation, std::size_t count, Dtype dtype, void* data,
                 cudaStream_t stream) {
  // The sum of four uniform numbers of 0 .. 65535 deviates by 65535 / sqrt(3).
  const float scale = deviation * 1.7320508F / 65535.0F;
  return start(fill_kernel, dim3(blocks_for(count, 256)), 256, stream, seed, scale, count, dtype,
               data);
}

cudaError_t product(const float* x, const std::uint32_t* list, const ProductGroup* groups,
                    std::uint32_t count, std::uint32_t rows_max, std::uint32_t cols,
                    std::uint32_t features, float* out, cudaStream_t stream) {
  return launch(x, list, groups, ProductGroup{}, count, rows_max, cols, features, out, stream);
}

cudaError_t product(const float* x, std::uint32_t rows, const Weight& weight, float* out,
                    cudaStream_t stream) {
  return launch(x, nullptr, nullptr, ProductGroup{weight, 0, rows}, 1, rows, weight.cols,
                weight.rows, out, stream);
}

}  // namespace fulgur::kernels::cuda::portable
