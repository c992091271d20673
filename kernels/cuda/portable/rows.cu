// Row and element operations of the portable kernels. Sums over a row go through 16 lanes as in the
// definition, a thread a lane; everything else is one thread an element.
#include "kernels/cuda/portable/device.cuh"
#include "kernels/cuda/portable/portable.hpp"

namespace fulgur::kernels::cuda::portable {
namespace {

constexpr unsigned kThreads = 256;
constexpr unsigned kRowThreads = 128;

FULGUR_DEVICE std::size_t index_of(unsigned thread) {
  return static_cast<std::size_t>(blockIdx.x) * blockDim.x + thread;
}

__global__ void widen_kernel(const void* x, Dtype dtype, bool round, std::size_t count,
                             float* out) {
  phase([&](unsigned thread) {
    const std::size_t i = index_of(thread);
    if (i >= count) return;
    const float value = element(x, dtype, i);
    out[i] = round ? bf16_value(bf16_bits(value)) : value;
  });
}

__global__ void narrow_kernel(const float* x, std::size_t count, Dtype dtype, void* out) {
  phase([&](unsigned thread) {
    const std::size_t i = index_of(thread);
    if (i >= count) return;
    if (dtype == Dtype::f32) {
      static_cast<float*>(out)[i] = x[i];
    } else {
      static_cast<std::uint16_t*>(out)[i] = bf16_bits(x[i]);
    }
  });
}

/// Block: one row.
__global__ void embed_kernel(const void* table, Dtype dtype, const std::uint32_t* ids,
                             std::size_t dim, float* out) {
  phase([&](unsigned thread) {
    const std::size_t from = ids[blockIdx.x] * dim;
    const std::size_t to = blockIdx.x * dim;
    for (std::size_t d = thread; d < dim; d += blockDim.x) {
      out[to + d] = element(table, dtype, from + d);
    }
  });
}

/// Block: one row.
__global__ void norm_kernel(const float* x, const float* gate, const float* weight, float eps,
                            std::size_t dim, float* out) {
  __shared__ float lanes[kLanes];
  const std::size_t base = blockIdx.x * dim;
  phase([&](unsigned thread) {
    if (thread >= kLanes) return;
    float sum = 0;
    for (std::size_t i = thread; i < dim; i += kLanes) sum = fmaf(x[base + i], x[base + i], sum);
    lanes[thread] = sum;
  });
  const float scale = 1.0F / sqrtf(sum_lanes(lanes) / static_cast<float>(dim) + eps);
  phase([&](unsigned thread) {
    for (std::size_t i = thread; i < dim; i += blockDim.x) {
      const float normed = x[base + i] * scale * weight[i];
      out[base + i] = gate != nullptr ? normed * sigmoid_fixed(gate[base + i]) : normed;
    }
  });
}

__global__ void scale_add_kernel(float alpha, const float* x, float beta, const float* y,
                                 std::size_t count, float* out) {
  phase([&](unsigned thread) {
    const std::size_t i = index_of(thread);
    if (i < count) out[i] = alpha * x[i] + beta * y[i];
  });
}

/// Block: one row of the output.
__global__ void gather_kernel(const float* y, const std::uint32_t* rows, std::size_t dim,
                              Dtype dtype, void* out) {
  phase([&](unsigned thread) {
    const float* from = y + rows[blockIdx.x] * dim;
    const std::size_t to = blockIdx.x * dim;
    for (std::size_t d = thread; d < dim; d += blockDim.x) {
      if (dtype == Dtype::f32) {
        static_cast<float*>(out)[to + d] = from[d];
      } else {
        static_cast<std::uint16_t*>(out)[to + d] = bf16_bits(from[d]);
      }
    }
  });
}

/// Block: one row, in words of type T.
template <class T>
__global__ void copy_kernel(const void* const* from, void* const* to, std::size_t words) {
  phase([&](unsigned thread) {
    const auto* source = static_cast<const T*>(from[blockIdx.x]);
    auto* target = static_cast<T*>(to[blockIdx.x]);
    for (std::size_t i = thread; i < words; i += blockDim.x) target[i] = source[i];
  });
}

/// What one load brings at most.
struct alignas(16) Words {
  std::uint64_t low, high;
};

/// Block: one row.
__global__ void combine_kernel(const float* y, std::size_t hidden, std::uint32_t k,
                               const float* weights, const void* const* outputs, Dtype dtype,
                               float alpha, float beta, float* out) {
  phase([&](unsigned thread) {
    const std::size_t base = blockIdx.x * hidden;
    const std::size_t slots = static_cast<std::size_t>(blockIdx.x) * k;
    for (std::size_t d = thread; d < hidden; d += blockDim.x) {
      float sum = 0;
      for (std::uint32_t s = 0; s < k; ++s) {
        sum = fmaf(weights[slots + s], element(outputs[slots + s], dtype, d), sum);
      }
      out[base + d] = alpha * y[base + d] + beta * sum;
    }
  });
}

__global__ void swiglu_kernel(const float* gate_up, std::size_t count, std::size_t inner,
                              bool round, float* out) {
  phase([&](unsigned thread) {
    const std::size_t i = index_of(thread);
    if (i >= count) return;
    const std::size_t at = i / inner * 2 * inner + i % inner;
    const float value = silu_fixed(gate_up[at]) * gate_up[at + inner];
    out[i] = round ? bf16_value(bf16_bits(value)) : value;
  });
}

/// One thread a row: tables.cpp, select_experts.
FULGUR_DEVICE void choose_row(float* exps, std::uint32_t experts, std::uint32_t k,
                              std::uint16_t* chosen, float* weights) {
  constexpr float kTaken = -1.0F;
  float largest = exps[0];
  for (std::uint32_t e = 1; e < experts; ++e) largest = largest < exps[e] ? exps[e] : largest;
  float total = 0;
  for (std::uint32_t e = 0; e < experts; ++e) {
    exps[e] = exp_fixed(exps[e] - largest);
    total += exps[e];
  }
  for (std::uint32_t e = 0; e < experts; ++e) exps[e] /= total;
  float chosen_total = 0;
  for (std::uint32_t slot = 0; slot < k; ++slot) {
    std::uint32_t best = experts;
    for (std::uint32_t e = 0; e < experts; ++e) {
      if (exps[e] == kTaken) continue;
      if (best == experts || exps[e] > exps[best]) best = e;
    }
    chosen[slot] = static_cast<std::uint16_t>(best);
    weights[slot] = exps[best];
    chosen_total += exps[best];
    exps[best] = kTaken;
  }
  for (std::uint32_t slot = 0; slot < k; ++slot) weights[slot] /= chosen_total;
}

__global__ void choose_kernel(float* logits, std::size_t rows, std::uint32_t experts,
                              std::uint32_t k, std::uint16_t* chosen, float* weights) {
  phase([&](unsigned thread) {
    const std::size_t row = index_of(thread);
    if (row >= rows) return;
    choose_row(logits + row * experts, experts, k, chosen + row * k, weights + row * k);
  });
}

/// A candidate for the largest element of a row. Ties go to the lower place.
FULGUR_DEVICE bool beats(float value, std::uint32_t place, float other, std::uint32_t other_place) {
  return other < value || (other == value && place < other_place);
}

/// The threads' candidates to one, in the first place of both arrays.
FULGUR_DEVICE void best_of_block(float* values, std::uint32_t* places) {
  for (unsigned width = kThreads / 2; width > 0; width /= 2) {
    phase([&](unsigned thread) {
      if (thread >= width) return;
      const unsigned other = thread + width;
      if (!beats(values[other], places[other], values[thread], places[thread])) return;
      values[thread] = values[other];
      places[thread] = places[other];
    });
  }
}

/// Block (part, row): the largest element of a part of a row. partial [rows, parts].
__global__ void argmax_part_kernel(const float* x, std::size_t cols, ArgmaxPart* partial) {
  __shared__ float values[kThreads];
  __shared__ std::uint32_t places[kThreads];
  const float* row = x + blockIdx.y * cols;
  const std::size_t begin = static_cast<std::size_t>(blockIdx.x) * kArgmaxColumns;
  const std::size_t end = begin + kArgmaxColumns < cols ? begin + kArgmaxColumns : cols;
  phase([&](unsigned thread) {
    std::size_t best = begin + thread < end ? begin + thread : begin;
    for (std::size_t i = begin + thread; i < end; i += kThreads) {
      best = row[best] < row[i] ? i : best;
    }
    values[thread] = row[best];
    places[thread] = static_cast<std::uint32_t>(best);
  });
  best_of_block(values, places);
  phase([&](unsigned thread) {
    if (thread != 0) return;
    const std::size_t parts = (cols + kArgmaxColumns - 1) / kArgmaxColumns;
    partial[blockIdx.y * parts + blockIdx.x] = {values[0], places[0]};
  });
}

/// Block: one row.
__global__ void argmax_kernel(const ArgmaxPart* partial, std::size_t parts, std::uint32_t* ids) {
  __shared__ float values[kThreads];
  __shared__ std::uint32_t places[kThreads];
  const ArgmaxPart* row = partial + blockIdx.x * parts;
  phase([&](unsigned thread) {
    std::size_t best = thread < parts ? thread : 0;
    for (std::size_t i = thread; i < parts; i += kThreads) {
      if (beats(row[i].value, row[i].place, row[best].value, row[best].place)) best = i;
    }
    values[thread] = row[best].value;
    places[thread] = row[best].place;
  });
  best_of_block(values, places);
  phase([&](unsigned thread) {
    if (thread == 0) ids[blockIdx.x] = places[0];
  });
}

}  // namespace

cudaError_t widen(const void* x, Dtype dtype, bool round, std::size_t count, float* out,
                  cudaStream_t stream) {
  return start(widen_kernel, dim3(blocks_for(count, kThreads)), kThreads, stream, x, dtype, round,
               count, out);
}

cudaError_t narrow(const float* x, std::size_t count, Dtype dtype, void* out, cudaStream_t stream) {
  return start(narrow_kernel, dim3(blocks_for(count, kThreads)), kThreads, stream, x, count, dtype,
               out);
}

cudaError_t embed(const void* table, Dtype dtype, const std::uint32_t* ids, std::size_t rows,
                  std::size_t dim, float* out, cudaStream_t stream) {
  return start(embed_kernel, dim3(static_cast<unsigned>(rows)), kRowThreads, stream, table, dtype,
               ids, dim, out);
}

cudaError_t norm(const float* x, const float* gate, const float* weight, float eps,
                 std::size_t rows, std::size_t dim, float* out, cudaStream_t stream) {
  return start(norm_kernel, dim3(static_cast<unsigned>(rows)), kRowThreads, stream, x, gate, weight,
               eps, dim, out);
}

cudaError_t scale_add(float alpha, const float* x, float beta, const float* y, std::size_t count,
                      float* out, cudaStream_t stream) {
  return start(scale_add_kernel, dim3(blocks_for(count, kThreads)), kThreads, stream, alpha, x,
               beta, y, count, out);
}

cudaError_t gather(const float* y, const std::uint32_t* rows, std::size_t count, std::size_t dim,
                   Dtype dtype, void* out, cudaStream_t stream) {
  return start(gather_kernel, dim3(static_cast<unsigned>(count)), kRowThreads, stream, y, rows, dim,
               dtype, out);
}

cudaError_t copy_rows(const void* const* from, void* const* to, std::size_t count,
                      std::size_t row_bytes, std::size_t alignment, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(count));
  if (alignment % 16 == 0)
    return start(copy_kernel<Words>, grid, kThreads, stream, from, to, row_bytes / 16);
  if (alignment % 4 == 0)
    return start(copy_kernel<std::uint32_t>, grid, kThreads, stream, from, to, row_bytes / 4);
  return start(copy_kernel<std::uint8_t>, grid, kThreads, stream, from, to, row_bytes);
}

cudaError_t combine(const float* y, std::size_t rows, std::size_t hidden, std::uint32_t k,
                    const float* weights, const void* const* outputs, Dtype dtype, float alpha,
                    float beta, float* out, cudaStream_t stream) {
  return start(combine_kernel, dim3(static_cast<unsigned>(rows)), kRowThreads, stream, y, hidden, k,
               weights, outputs, dtype, alpha, beta, out);
}

cudaError_t swiglu(const float* gate_up, std::size_t rows, std::size_t inner, bool round,
                   float* out, cudaStream_t stream) {
  const std::size_t count = rows * inner;
  return start(swiglu_kernel, dim3(blocks_for(count, kThreads)), kThreads, stream, gate_up, count,
               inner, round, out);
}

cudaError_t argmax(const float* x, std::size_t rows, std::size_t cols, ArgmaxPart* partial,
                   std::uint32_t* ids, cudaStream_t stream) {
  const std::size_t parts = argmax_parts(cols);
  const dim3 grid(static_cast<unsigned>(parts), static_cast<unsigned>(rows));
  if (const cudaError_t error = start(argmax_part_kernel, grid, kThreads, stream, x, cols, partial);
      error != cudaSuccess) {
    return error;
  }
  return start(argmax_kernel, dim3(static_cast<unsigned>(rows)), kThreads, stream, partial, parts,
               ids);
}

cudaError_t choose(float* logits, std::size_t rows, std::uint32_t experts, std::uint32_t k,
                   std::uint16_t* chosen, float* weights, cudaStream_t stream) {
  constexpr unsigned kChooseThreads = 32;
  return start(choose_kernel, dim3(blocks_for(rows, kChooseThreads)), kChooseThreads, stream,
               logits, rows, experts, k, chosen, weights);
}

}  // namespace fulgur::kernels::cuda::portable
