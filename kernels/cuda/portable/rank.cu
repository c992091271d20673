// The kRanks = 256 most likely tokens of rows of logits, sorted, for draws that need ranks.
//
// What is compared is one 64-bit number a token: the logit's bits made to sort like the logit, then
// the token's id inverted. No two are equal, so the answer is one, whatever runs first, and there
// are neither atomics nor counts that a tie could make large.
//
// 1. A row is cut into parts of 4,096 columns, a part into 256 groups of 16 (columns t, t + 256,
//    ..., so that a warp reads neighbours). Block (part, row) sorts its groups' highest numbers.
// 2. Block (row) merges the parts' lists, 15 at a time: of two sorted lists the larger ones of a[i]
//    and b[255 - i] are the 256 largest and bitonic, so eight steps sort them again. The 256th of
//    all groups' highest is a bound: 256 tokens are not below it, and every token that is not lies
//    in one of those 256 groups. They are read again: at most 4,096 tokens, in logits as they come
//    about 260, are counted, packed and sorted, and the first 256 are the answer.
//
// Traffic of a row of 200,064: 800 KB of logits once; 100 KB of lists written and read; at most
// 128 KB in single sectors. 128 rows: 102 MB + 26 MB + 17 MB, 48 us at 3 TB/s. Step 2 keeps one
// block a row busy for about 210 barriers (merges 149, scan 8, sort 36 or 45): predicted 20 us.
#include "kernels/cuda/portable/device.cuh"
#include "kernels/cuda/portable/portable.hpp"

namespace fulgur::kernels::cuda::portable {
namespace {

constexpr unsigned kThreads = 256;
constexpr unsigned kList = static_cast<unsigned>(kRanks);
constexpr unsigned kLists = 16;  ///< in shared memory at once
constexpr unsigned kGroup = static_cast<unsigned>(kDrawColumns) / kThreads;
static_assert(kList == kThreads, "a thread a group, a group a place");
static_assert(kGroup * kList == kLists * kList, "all tokens of kList groups fit");

/// Sorts like (logit, -token), NaN below everything; 0 is below every token.
FULGUR_DEVICE std::uint64_t number_of(float logit, std::size_t token) {
  std::uint32_t bits = __float_as_uint(logit);
  if (bits == 0x80000000U) bits = 0;  // -0 is as likely as 0
  std::uint32_t key = (bits & 0x80000000U) != 0 ? ~bits : bits | 0x80000000U;
  if ((bits & 0x7fffffffU) > 0x7f800000U) key = 0;
  return static_cast<std::uint64_t>(key) << 32 | (0xffffffffU - static_cast<std::uint32_t>(token));
}
FULGUR_DEVICE std::uint32_t token_of(std::uint64_t number) {
  return 0xffffffffU - static_cast<std::uint32_t>(number);
}
FULGUR_DEVICE float logit_of(std::uint64_t number) {
  const auto key = static_cast<std::uint32_t>(number >> 32);
  if (key == 0) return __uint_as_float(0x7fc00000U);
  return __uint_as_float((key & 0x80000000U) != 0 ? key ^ 0x80000000U : ~key);
}

/// The lower index of pair `i` of those `stride` apart.
FULGUR_DEVICE unsigned first_of_pair(unsigned i, unsigned stride) {
  return (i & ~(stride - 1)) * 2 + (i & (stride - 1));
}

FULGUR_DEVICE void order(std::uint64_t& a, std::uint64_t& b, bool descending) {
  if ((a < b) != descending) return;
  const std::uint64_t other = a;
  a = b;
  b = other;
}

/// Sorts bitonic lists of kList numbers, each descending.
FULGUR_DEVICE void sort_bitonic(std::uint64_t* numbers, unsigned lists) {
  for (unsigned stride = kList / 2; stride > 0; stride /= 2) {
    phase([&](unsigned thread) {
      for (unsigned i = thread; i < lists * kList / 2; i += kThreads) {
        const unsigned at = first_of_pair(i, stride);
        order(numbers[at], numbers[at + stride], true);
      }
    });
  }
}

/// Sorts numbers [size], a power of two, descending.
FULGUR_DEVICE void sort_all(std::uint64_t* numbers, unsigned size) {
  for (unsigned width = 2; width <= size; width *= 2) {
    for (unsigned stride = width / 2; stride > 0; stride /= 2) {
      phase([&](unsigned thread) {
        for (unsigned i = thread; i < size / 2; i += kThreads) {
          const unsigned at = first_of_pair(i, stride);
          order(numbers[at], numbers[at + stride], (at & width) == 0);
        }
      });
    }
  }
}

/// Block (part, row): the highest numbers of the part's groups, descending; 0: an empty group.
__global__ void rank_groups_kernel(const float* logits, std::size_t vocab,
                                   const std::uint32_t* rows, std::uint64_t* groups) {
  __shared__ std::uint64_t numbers[kList];
  const std::size_t parts = (vocab + kDrawColumns - 1) / kDrawColumns;
  const float* row = logits + rows[blockIdx.y] * vocab;
  const std::size_t begin = blockIdx.x * kDrawColumns;
  phase([&](unsigned thread) {
    std::uint64_t highest = 0;
    for (unsigned i = 0; i < kGroup; ++i) {
      const std::size_t token = begin + i * kThreads + thread;
      if (token >= vocab) break;
      const std::uint64_t number = number_of(row[token], token);
      highest = highest < number ? number : highest;
    }
    numbers[thread] = highest;
  });
  sort_all(numbers, kList);
  std::uint64_t* out = groups + (blockIdx.y * parts + blockIdx.x) * kList;
  phase([&](unsigned thread) { out[thread] = numbers[thread]; });
}

/// numbers[0, kList): the largest of all lists [count, kList]; room for kLists of them.
FULGUR_DEVICE void merge_lists(const std::uint64_t* lists, std::size_t count,
                               std::uint64_t* numbers) {
  phase([&](unsigned thread) { numbers[thread] = 0; });
  for (std::size_t first = 0; first < count; first += kLists - 1) {
    phase([&](unsigned thread) {
      for (unsigned i = 1; i < kLists; ++i) {
        const std::size_t list = first + i - 1;
        numbers[i * kList + thread] = list < count ? lists[list * kList + thread] : 0;
      }
    });
    for (unsigned left = kLists / 2; left > 0; left /= 2) {
      phase([&](unsigned thread) {
        for (unsigned i = 0; i < left; ++i) {
          std::uint64_t& own = numbers[i * kList + thread];
          const std::uint64_t other = numbers[(i + left) * kList + kList - 1 - thread];
          own = own < other ? other : own;
        }
      });
      sort_bitonic(numbers, left);
    }
  }
}

/// Block: one row. The most likely tokens from the sorted groups of its parts.
__global__ void rank_select_kernel(const float* logits, std::size_t vocab,
                                   const std::uint32_t* rows, const std::uint64_t* groups,
                                   RankedToken* out) {
  __shared__ std::uint64_t numbers[kLists * kList];
  __shared__ std::uint64_t chosen[kList];
  __shared__ unsigned counts[2][kThreads];
  const std::size_t parts = (vocab + kDrawColumns - 1) / kDrawColumns;
  const float* row = logits + rows[blockIdx.x] * vocab;
  merge_lists(groups + blockIdx.x * parts * kList, parts, numbers);
  phase([&](unsigned thread) { chosen[thread] = numbers[thread]; });
  // The tokens of a thread's group that are not below the last group's highest.
  const auto each = [&](unsigned thread, const auto& visit) {
    if (chosen[thread] == 0) return;
    const std::uint32_t highest = token_of(chosen[thread]);
    const std::size_t begin = highest / kDrawColumns * kDrawColumns + highest % kThreads;
    for (unsigned i = 0; i < kGroup; ++i) {
      const std::size_t token = begin + i * kThreads;
      if (token >= vocab) break;
      const std::uint64_t number = number_of(row[token], token);
      if (number >= chosen[kList - 1]) visit(number);
    }
  };
  phase([&](unsigned thread) {
    unsigned count = 0;
    each(thread, [&](std::uint64_t) { ++count; });
    counts[0][thread] = count;
  });
  unsigned now = 0;
  for (unsigned width = 1; width < kThreads; width *= 2) {
    phase([&](unsigned thread) {
      const unsigned before = thread >= width ? counts[now][thread - width] : 0;
      counts[1 - now][thread] = counts[now][thread] + before;
    });
    now = 1 - now;
  }
  const unsigned total = counts[now][kThreads - 1];
  unsigned size = kList;
  while (size < total) size *= 2;
  phase([&](unsigned thread) {
    unsigned at = thread > 0 ? counts[now][thread - 1] : 0;
    each(thread, [&](std::uint64_t number) { numbers[at++] = number; });
    for (unsigned i = total + thread; i < size; i += kThreads) numbers[i] = 0;
  });
  sort_all(numbers, size);
  phase([&](unsigned thread) {
    out[blockIdx.x * kList + thread] = {logit_of(numbers[thread]), token_of(numbers[thread])};
  });
}

}  // namespace

cudaError_t rank(const float* logits, std::size_t vocab, const std::uint32_t* rows,
                 std::size_t count, std::uint64_t* groups, RankedToken* out, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(draw_parts(vocab)), static_cast<unsigned>(count));
  const cudaError_t error =
      start(rank_groups_kernel, grid, kThreads, stream, logits, vocab, rows, groups);
  if (error != cudaSuccess) return error;
  return start(rank_select_kernel, dim3(static_cast<unsigned>(count)), kThreads, stream, logits,
               vocab, rows, groups, out);
}

}  // namespace fulgur::kernels::cuda::portable
