// Lightning and softmax attention of the portable kernels. Lightning: a block owns one head of one
// segment and walks its blocks of 64 tokens; within one, tokens are independent, since the state is
// only read. Softmax: a block owns one head of one token and walks the splits of 512 positions in
// order, merging as it goes. Orders of sums: kernels/reference/reference_backend.hpp.
#include "kernels/cuda/portable/device.cuh"
#include "kernels/cuda/portable/portable.hpp"

namespace fulgur::kernels::cuda::portable {
namespace {

constexpr std::uint32_t kBlock = 64;   // kLightningBlock, kPageTokens
constexpr std::uint32_t kSplit = 512;  // kSoftmaxSplit
constexpr unsigned kLightningThreads = 256;
constexpr unsigned kSoftmaxThreads = 128;
constexpr float kInfinity = __builtin_huge_valf();

// --- Lightning -----------------------------------------------------------------------------------

__global__ void active_kernel(const float* qkv, std::size_t count, std::uint32_t dim, bool bf16,
                              float* active) {
  phase([&](unsigned thread) {
    const std::size_t i = static_cast<std::size_t>(blockIdx.x) * blockDim.x + thread;
    if (i >= count) return;
    const float value = silu_fixed(qkv[i]);
    const bool query = i / dim % 3 == 0;
    active[i] = bf16 && !query ? bf16_value(bf16_bits(value)) : value;
  });
}

template <class Element>
struct HeadSlot {
  float* state;                      ///< [dim (key), dim (value)]
  typename Element::Stored* keys;    ///< [64, dim]
  typename Element::Stored* values;  ///< [64, dim]
};

/// state = exp(-r B) state + sum over j of exp(-r (B - 1 - j)) k_j v_jᵀ, element (d, e).
template <class Element>
FULGUR_DEVICE void fold(const HeadSlot<Element>& head, const float* decay, std::uint32_t dim,
                        std::uint32_t d, std::uint32_t e) {
  float sum = decay[kBlock] * head.state[d * dim + e];
  for (std::uint32_t j = 0; j < kBlock; ++j) {
    const float key = decay[kBlock - 1 - j] * Element::load(head.keys[j * dim + d]);
    sum = fmaf(key, Element::load(head.values[j * dim + e]), sum);
  }
  head.state[d * dim + e] = sum;
}

/// Block: one head of one segment.
template <class Element>
__global__ void lightning_kernel(const float* active, const LightningRows* segments,
                                 std::uint32_t heads, std::uint32_t dim, std::size_t head_bytes,
                                 const float* powers, float* out) {
  __shared__ float weights[kBlock * kBlock];
  const LightningRows segment = segments[blockIdx.y];
  const std::uint32_t h = blockIdx.x;
  const float* decay = powers + h * (kBlock + 1);
  auto* state = reinterpret_cast<float*>(static_cast<std::byte*>(segment.slot) + h * head_bytes);
  auto* keys = reinterpret_cast<typename Element::Stored*>(state + dim * dim);
  const HeadSlot<Element> head{state, keys, keys + kBlock * dim};
  if (segment.position == 0) {
    phase([&](unsigned thread) {
      for (std::uint32_t n = thread; n < dim * dim; n += blockDim.x) head.state[n] = 0;
    });
  }
  for (std::uint32_t done = 0; done < segment.rows;) {
    const auto first = static_cast<std::uint32_t>((segment.position + done) % kBlock);
    const std::uint32_t left = segment.rows - done;
    const std::uint32_t count = left < kBlock - first ? left : kBlock - first;
    const std::size_t token = static_cast<std::size_t>(segment.row) + done;
    const float* x = active + (token * heads + h) * 3 * dim;  // q, k, v of the first token
    const std::size_t stride = static_cast<std::size_t>(heads) * 3 * dim;
    phase([&](unsigned thread) {
      for (std::uint32_t n = thread; n < count * dim; n += blockDim.x) {
        const float* row = x + n / dim * stride + n % dim;
        head.keys[first * dim + n] = Element::store(row[dim]);
        head.values[first * dim + n] = Element::store(row[2 * dim]);
      }
    });
    phase([&](unsigned thread) {
      for (std::uint32_t n = thread; n < count * kBlock; n += blockDim.x) {
        const std::uint32_t i = first + n / kBlock;
        const std::uint32_t j = n % kBlock;
        if (j > i) continue;
        weights[n] = dot(x + n / kBlock * stride, head.keys + j * dim, dim) * decay[i - j];
      }
    });
    phase([&](unsigned thread) {
      for (std::uint32_t n = thread; n < count * dim; n += blockDim.x) {
        const std::uint32_t r = n / dim;
        const std::uint32_t e = n % dim;
        const float* q = x + r * stride;
        float sum = 0;
        for (std::uint32_t d = 0; d < dim; ++d) sum = fmaf(q[d], head.state[d * dim + e], sum);
        sum = sum * decay[first + r + 1];
        for (std::uint32_t j = 0; j <= first + r; ++j) {
          sum = fmaf(weights[r * kBlock + j], Element::load(head.values[j * dim + e]), sum);
        }
        out[((token + r) * heads + h) * dim + e] = sum;
      }
    });
    if (first + count == kBlock) {
      phase([&](unsigned thread) {
        for (std::uint32_t n = thread; n < dim * dim; n += blockDim.x) {
          fold(head, decay, dim, n / dim, n % dim);
        }
      });
    }
    done += count;
  }
}

// --- Softmax -------------------------------------------------------------------------------------

/// Keys (or values) of one KV head of the page a position lies in, at the position's row.
template <class Element>
FULGUR_DEVICE typename Element::Stored* page_row(const Softmax& call, const std::uint32_t* pages,
                                                 std::uint64_t position, std::uint32_t kv,
                                                 bool value) {
  const std::size_t head = static_cast<std::size_t>(pages[position / kBlock]) * call.kv_heads + kv;
  const std::size_t row = (head * 2 + (value ? 1 : 0)) * kBlock + position % kBlock;
  return static_cast<typename Element::Stored*>(call.pages) + row * call.dim;
}

FULGUR_DEVICE float rotated(const float* x, std::uint32_t d, std::uint32_t half,
                            const float* cosine, const float* sine) {
  if (d < half) return x[d] * cosine[d] - x[d + half] * sine[d];
  if (d < 2 * half) return x[d] * cosine[d - half] + x[d - half] * sine[d - half];
  return x[d];
}

/// Block: one token.
template <class Element>
__global__ void rotate_kernel(Softmax call) {
  phase([&](unsigned thread) {
    const SoftmaxToken token = call.tokens[blockIdx.x];
    const std::uint32_t dim = call.dim;
    const std::uint32_t all = call.heads + 2 * call.kv_heads;
    const float* x = call.qkv + static_cast<std::size_t>(token.row) * all * dim;
    const float* cosine = call.angles + static_cast<std::size_t>(blockIdx.x) * 2 * call.half;
    const float* sine = cosine + call.half;
    const std::uint32_t* pages = call.page_list + token.pages;
    float* queries = call.queries + static_cast<std::size_t>(blockIdx.x) * call.heads * dim;
    for (std::uint32_t n = thread; n < all * dim; n += blockDim.x) {
      const std::uint32_t h = n / dim;
      const std::uint32_t d = n % dim;
      if (h < call.heads) {
        queries[n] = rotated(x + h * dim, d, call.half, cosine, sine) * call.scale;
      } else if (h < call.heads + call.kv_heads) {
        page_row<Element>(call, pages, token.position, h - call.heads, false)[d] =
            Element::store(rotated(x + h * dim, d, call.half, cosine, sine));
      } else {
        page_row<Element>(call, pages, token.position, h - call.heads - call.kv_heads, true)[d] =
            Element::store(x[n]);
      }
    }
  });
}

/// Block: one head of one token. The output row itself holds the sum so far.
template <class Element>
__global__ void attend_kernel(Softmax call) {
  __shared__ float scores[kSplit];
  __shared__ float largest[kLanes];
  __shared__ float lanes[kLanes];
  const SoftmaxToken token = call.tokens[blockIdx.y];
  const std::uint32_t h = blockIdx.x;
  const std::uint32_t dim = call.dim;
  const std::uint32_t kv = h / (call.heads / call.kv_heads);
  const std::uint32_t* pages = call.page_list + token.pages;
  const float* q = call.queries + (static_cast<std::size_t>(blockIdx.y) * call.heads + h) * dim;
  float* out = call.out + (static_cast<std::size_t>(token.row) * call.heads + h) * dim;
  float total_max = -kInfinity;
  float total_sum = 0;
  for (std::uint64_t first = 0; first <= token.position; first += kSplit) {
    const std::uint64_t seen = token.position + 1 - first;
    const auto count = static_cast<std::uint32_t>(seen < kSplit ? seen : kSplit);
    phase([&](unsigned thread) {
      for (std::uint32_t n = thread; n < count; n += blockDim.x) {
        scores[n] = dot(q, page_row<Element>(call, pages, first + n, kv, false), dim);
      }
    });
    phase([&](unsigned thread) {
      if (thread >= kLanes) return;
      float max = -kInfinity;
      for (std::uint32_t n = thread; n < count; n += kLanes)
        max = max < scores[n] ? scores[n] : max;
      largest[thread] = max;
    });
    float max = -kInfinity;
    for (int lane = 0; lane < kLanes; ++lane) max = max < largest[lane] ? largest[lane] : max;
    phase([&](unsigned thread) {
      for (std::uint32_t n = thread; n < count; n += blockDim.x)
        scores[n] = exp_fixed(scores[n] - max);
    });
    phase([&](unsigned thread) {
      if (thread >= kLanes) return;
      float sum = 0;
      for (std::uint32_t n = thread; n < count; n += kLanes) sum += scores[n];
      lanes[thread] = sum;
    });
    const float sum = sum_lanes(lanes);
    const bool start_over = total_sum == 0;
    const float new_max = total_max < max ? max : total_max;
    const float old_scale = exp_fixed(total_max - new_max);
    const float new_scale = exp_fixed(max - new_max);
    phase([&](unsigned thread) {
      for (std::uint32_t e = thread; e < dim; e += blockDim.x) {
        float value = 0;
        for (std::uint32_t n = 0; n < count; ++n) {
          const auto* row = page_row<Element>(call, pages, first + n, kv, true);
          value = fmaf(scores[n], Element::load(row[e]), value);
        }
        out[e] = start_over ? value : out[e] * old_scale + value * new_scale;
      }
    });
    total_sum = start_over ? sum : total_sum * old_scale + sum * new_scale;
    total_max = start_over ? max : new_max;
  }
  const float scale = 1.0F / total_sum;
  phase([&](unsigned thread) {
    for (std::uint32_t e = thread; e < dim; e += blockDim.x) out[e] = out[e] * scale;
  });
}

template <class Element>
cudaError_t launch_softmax(const Softmax& call, cudaStream_t stream) {
  constexpr std::uint32_t kTokensMax = 65535;  // of grid.y
  if (call.count > kTokensMax) return cudaErrorInvalidValue;
  const cudaError_t rotated =
      start(rotate_kernel<Element>, dim3(call.count), kSoftmaxThreads, stream, call);
  if (rotated != cudaSuccess) return rotated;
  return start(attend_kernel<Element>, dim3(call.heads, call.count), kSoftmaxThreads, stream, call);
}

}  // namespace

cudaError_t lightning_active(const float* qkv, std::size_t rows, std::uint32_t heads,
                             std::uint32_t dim, bool bf16, float* active, cudaStream_t stream) {
  const std::size_t count = rows * heads * 3 * dim;
  return start(active_kernel, dim3(blocks_for(count, 256)), 256, stream, qkv, count, dim, bf16,
               active);
}

cudaError_t lightning(const float* active, const LightningRows* segments, std::uint32_t count,
                      std::uint32_t heads, std::uint32_t dim, bool bf16, const float* powers,
                      float* out, cudaStream_t stream) {
  const dim3 grid(heads, count);
  const std::size_t head_bytes = lightning_head_bytes(dim, bf16);
  if (bf16) {
    return start(lightning_kernel<Bf16Bits>, grid, kLightningThreads, stream, active, segments,
                 heads, dim, head_bytes, powers, out);
  }
  return start(lightning_kernel<F32>, grid, kLightningThreads, stream, active, segments, heads, dim,
               head_bytes, powers, out);
}

cudaError_t softmax(const Softmax& call, bool bf16, cudaStream_t stream) {
  return bf16 ? launch_softmax<Bf16Bits>(call, stream) : launch_softmax<F32>(call, stream);
}

}  // namespace fulgur::kernels::cuda::portable
