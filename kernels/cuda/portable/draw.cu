// The next tokens of rows of logits: the most likely one, or one drawn from the softmax, and its
// log-probability; what changes logits before, and the totals of such rows. Every sum has the order
// of draw.hpp, a thread its 16 columns and a block a part, so it depends on the row alone.
#include <cmath>

#include "kernels/cuda/portable/device.cuh"
#include "kernels/cuda/portable/portable.hpp"

namespace fulgur::kernels::cuda::portable {
namespace {

constexpr unsigned kThreads = static_cast<unsigned>(kDrawPartsMax);
constexpr float kNever = -INFINITY;
constexpr std::uint32_t kOwn = static_cast<std::uint32_t>(kDrawOwn);
static_assert(kOwn * kThreads == kDrawColumns);

/// Columns of one thread of a part.
struct Columns {
  std::size_t begin;
  std::size_t end;
};
FULGUR_DEVICE Columns columns_of(std::size_t part, unsigned thread, std::size_t vocab) {
  const std::size_t begin = part * kDrawColumns + thread * kOwn;
  const std::size_t end = begin + kOwn;
  return {begin < vocab ? begin : vocab, end < vocab ? end : vocab};
}

FULGUR_DEVICE bool is_banned(const std::uint32_t* banned, std::size_t token) {
  return (banned[token / 32] >> (token % 32) & 1U) != 0;
}

/// A part's candidate for the most likely token; ties go to the lower id.
FULGUR_DEVICE bool beats(float value, std::uint32_t token, float other, std::uint32_t other_token) {
  return other < value || (other == value && token < other_token);
}

/// Weights of a column: of the distribution itself, and of the one that is drawn from.
FULGUR_DEVICE double raw_weight(float logit, float highest) {
  return exp(static_cast<double>(logit - highest));
}
FULGUR_DEVICE double draw_weight(float logit, float highest, float scale) {
  return exp(static_cast<double>((logit - highest) * scale));
}

/// Block (part, row): the largest logits of a part.
__global__ void draw_peaks_kernel(const float* logits, std::size_t vocab, const DrawRow* rows,
                                  const std::uint32_t* banned, DrawPart* parts) {
  __shared__ float raw[kThreads];
  __shared__ float values[kThreads];
  __shared__ std::uint32_t tokens[kThreads];
  const float* row = logits + rows[blockIdx.y].row * vocab;
  phase([&](unsigned thread) {
    const Columns own = columns_of(blockIdx.x, thread, vocab);
    raw[thread] = values[thread] = kNever;
    tokens[thread] = static_cast<std::uint32_t>(vocab);
    for (std::size_t i = own.begin; i < own.end; ++i) {
      raw[thread] = raw[thread] < row[i] ? row[i] : raw[thread];
      const bool better =
          beats(row[i], static_cast<std::uint32_t>(i), values[thread], tokens[thread]);
      if (!better || is_banned(banned, i)) continue;
      values[thread] = row[i];
      tokens[thread] = static_cast<std::uint32_t>(i);
    }
  });
  for (unsigned width = kThreads / 2; width > 0; width /= 2) {
    phase([&](unsigned thread) {
      if (thread >= width) return;
      const unsigned other = thread + width;
      raw[thread] = raw[thread] < raw[other] ? raw[other] : raw[thread];
      if (!beats(values[other], tokens[other], values[thread], tokens[thread])) return;
      values[thread] = values[other];
      tokens[thread] = tokens[other];
    });
  }
  phase([&](unsigned thread) {
    if (thread != 0) return;
    const std::size_t count = (vocab + kDrawColumns - 1) / kDrawColumns;
    DrawPart& part = parts[blockIdx.y * count + blockIdx.x];
    part.raw_highest = raw[0];
    part.highest = values[0];
    part.best = tokens[0];
  });
}

/// The row's peaks from its parts'; one thread.
struct Peaks {
  float raw_highest;
  float highest;
  std::uint32_t best;
};
FULGUR_DEVICE Peaks peaks_of(const DrawPart* parts, std::size_t count) {
  Peaks peaks{parts[0].raw_highest, parts[0].highest, parts[0].best};
  for (std::size_t p = 1; p < count; ++p) {
    if (peaks.raw_highest < parts[p].raw_highest) peaks.raw_highest = parts[p].raw_highest;
    if (!beats(parts[p].highest, parts[p].best, peaks.highest, peaks.best)) continue;
    peaks.highest = parts[p].highest;
    peaks.best = parts[p].best;
  }
  return peaks;
}

/// Block (part, row): the weights of a part added up.
__global__ void draw_sums_kernel(const float* logits, std::size_t vocab, const DrawRow* rows,
                                 const std::uint32_t* banned, DrawPart* parts) {
  __shared__ double raw[kThreads];
  __shared__ double drawn[kThreads];
  __shared__ DrawPart shared_parts[kDrawPartsMax];
  __shared__ Peaks peaks[1];
  const std::size_t count = (vocab + kDrawColumns - 1) / kDrawColumns;
  DrawPart* own_parts = parts + blockIdx.y * count;
  const DrawRow draw = rows[blockIdx.y];
  const float* row = logits + draw.row * vocab;
  phase([&](unsigned thread) {
    if (thread < count) shared_parts[thread] = own_parts[thread];
  });
  phase([&](unsigned thread) {
    if (thread == 0) peaks[0] = peaks_of(shared_parts, count);
  });
  phase([&](unsigned thread) {
    const Columns own = columns_of(blockIdx.x, thread, vocab);
    double raw_sum = 0;
    double sum = 0;
    for (std::size_t i = own.begin; i < own.end; ++i) {
      raw_sum += raw_weight(row[i], peaks[0].raw_highest);
      if (draw.scale > 0 && !is_banned(banned, i)) {
        sum += draw_weight(row[i], peaks[0].highest, draw.scale);
      }
    }
    raw[thread] = raw_sum;
    drawn[thread] = sum;
  });
  phase([&](unsigned thread) {
    if (thread != 0) return;
    double raw_sum = 0;
    double sum = 0;
    for (unsigned t = 0; t < kThreads; ++t) {
      raw_sum += raw[t];
      sum += drawn[t];
    }
    own_parts[blockIdx.x].raw_sum = raw_sum;
    own_parts[blockIdx.x].sum = sum;
  });
}

/// Walks `count` sums ascending until `left` is used up: the place, and what is left there.
/// Rounding may leave a rest behind all of them: then the last place that holds anything.
template <class Sum>
FULGUR_DEVICE std::size_t walk(std::size_t count, double& left, const Sum& sum) {
  std::size_t last = 0;
  double at_last = 0;
  for (std::size_t i = 0; i < count; ++i) {
    const double here = sum(i);
    if (here > 0) {
      last = i;
      at_last = left;
    }
    if (left < here) break;
    left -= here;
  }
  left = at_last;
  return last;
}

/// Block: one row. The part, the thread and the column where the draw falls.
__global__ void draw_choose_kernel(const float* logits, std::size_t vocab, const DrawRow* rows,
                                   const std::uint32_t* banned, const DrawPart* parts, Drawn* out) {
  __shared__ DrawPart shared_parts[kDrawPartsMax];
  __shared__ double sums[kThreads];
  __shared__ double left[1];
  __shared__ double raw_total[1];
  __shared__ std::size_t chosen[1];
  __shared__ Peaks peaks[1];
  const std::size_t count = (vocab + kDrawColumns - 1) / kDrawColumns;
  const DrawPart* own_parts = parts + blockIdx.x * count;
  const DrawRow draw = rows[blockIdx.x];
  const float* row = logits + draw.row * vocab;
  const auto weight = [&](std::size_t token) {
    return is_banned(banned, token) ? 0.0 : draw_weight(row[token], peaks[0].highest, draw.scale);
  };
  phase([&](unsigned thread) {
    if (thread < count) shared_parts[thread] = own_parts[thread];
  });
  phase([&](unsigned thread) {
    if (thread != 0) return;
    peaks[0] = peaks_of(shared_parts, count);
    raw_total[0] = 0;
    double total = 0;
    for (std::size_t p = 0; p < count; ++p) {
      raw_total[0] += shared_parts[p].raw_sum;
      total += shared_parts[p].sum;
    }
    left[0] = draw.uniform * total;
    chosen[0] = walk(count, left[0], [&](std::size_t p) { return shared_parts[p].sum; });
  });
  if (draw.scale > 0) {
    phase([&](unsigned thread) {
      const Columns own = columns_of(chosen[0], thread, vocab);
      double sum = 0;
      for (std::size_t i = own.begin; i < own.end; ++i) sum += weight(i);
      sums[thread] = sum;
    });
  }
  phase([&](unsigned thread) {
    if (thread != 0) return;
    std::size_t token = peaks[0].best < vocab ? peaks[0].best : 0;  // a row of NaN has no best
    if (draw.scale > 0) {
      const std::size_t where = walk(kThreads, left[0], [&](std::size_t t) { return sums[t]; });
      const Columns own = columns_of(chosen[0], static_cast<unsigned>(where), vocab);
      token = own.begin + walk(own.end - own.begin, left[0],
                               [&](std::size_t i) { return weight(own.begin + i); });
    }
    const double log_total = log(raw_total[0]) + static_cast<double>(peaks[0].raw_highest);
    out[blockIdx.x] = {static_cast<std::uint32_t>(token),
                       static_cast<float>(static_cast<double>(row[token]) - log_total)};
  });
}

/// Block: one row, one thread of it: a few hundred additions.
__global__ void draw_totals_kernel(const float* logits, std::size_t vocab, const DrawRow* rows,
                                   const DrawPart* parts, const std::uint32_t* raw_rows,
                                   const DrawPart* raw_parts, const Drawn* drawn, RankTotals* out) {
  const std::size_t count = (vocab + kDrawColumns - 1) / kDrawColumns;
  const DrawPart* own_parts = parts + blockIdx.x * count;
  const std::uint32_t raw_row = raw_rows[blockIdx.x];
  const DrawPart* own_raw = raw_row == kOwnParts ? own_parts : raw_parts + raw_row * count;
  phase([&](unsigned thread) {
    if (thread != 0) return;
    RankTotals totals;
    totals.raw_highest = peaks_of(own_raw, count).raw_highest;
    totals.highest = peaks_of(own_parts, count).highest;
    totals.raw_sum = totals.sum = 0;
    for (std::size_t p = 0; p < count; ++p) {
      totals.raw_sum += own_raw[p].raw_sum;
      totals.sum += own_parts[p].sum;
    }
    totals.token = drawn[blockIdx.x].token;
    totals.logit = logits[rows[blockIdx.x].row * vocab + totals.token];
    out[blockIdx.x] = totals;
  });
}

/// A thread: one edit.
__global__ void edit_kernel(float* logits, std::size_t vocab, const RowEdit* edits,
                            std::size_t count, float* before) {
  phase([&](unsigned thread) {
    const std::size_t i = std::size_t{blockIdx.x} * blockDim.x + thread;
    if (i >= count) return;
    const LogitEdit edit = edits[i].edit;
    float& place = logits[edits[i].row * vocab + edit.token];
    const float logit = place;
    before[i] = logit;
    const float repeated = logit > 0 ? logit / edit.repetition : logit * edit.repetition;
    place = edit.plus == kNever ? kNever : repeated - edit.minus + edit.plus;
  });
}

}  // namespace

cudaError_t draw_sums(const float* logits, std::size_t vocab, const DrawRow* rows,
                      std::size_t count, const std::uint32_t* banned, DrawPart* parts,
                      cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(draw_parts(vocab)), static_cast<unsigned>(count));
  const cudaError_t error =
      start(draw_peaks_kernel, grid, kThreads, stream, logits, vocab, rows, banned, parts);
  if (error != cudaSuccess) return error;
  return start(draw_sums_kernel, grid, kThreads, stream, logits, vocab, rows, banned, parts);
}

cudaError_t draw_totals(const float* logits, std::size_t vocab, const DrawRow* rows,
                        std::size_t count, const DrawPart* parts, const std::uint32_t* raw_rows,
                        const DrawPart* raw_parts, const Drawn* drawn, RankTotals* out,
                        cudaStream_t stream) {
  return start(draw_totals_kernel, dim3(static_cast<unsigned>(count)), kThreads, stream, logits,
               vocab, rows, parts, raw_rows, raw_parts, drawn, out);
}

cudaError_t edit_logits(float* logits, std::size_t vocab, const RowEdit* edits, std::size_t count,
                        float* before, cudaStream_t stream) {
  return start(edit_kernel, dim3(blocks_for(count, kThreads)), kThreads, stream, logits, vocab,
               edits, count, before);
}

cudaError_t draw(const float* logits, std::size_t vocab, const DrawRow* rows, std::size_t count,
                 const std::uint32_t* banned, DrawPart* parts, Drawn* out, cudaStream_t stream) {
  const cudaError_t error = draw_sums(logits, vocab, rows, count, banned, parts, stream);
  if (error != cudaSuccess) return error;
  return start(draw_choose_kernel, dim3(static_cast<unsigned>(count)), kThreads, stream, logits,
               vocab, rows, banned, parts, out);
}

}  // namespace fulgur::kernels::cuda::portable
