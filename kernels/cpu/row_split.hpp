// How the CPU backend cuts work for the compute pool: small work stays on the caller's thread.
#pragma once

#include <algorithm>
#include <cstddef>

#include "kernels/cpu/compute_pool.hpp"

namespace fulgur::kernels::cpu {

/// Elements of row work below which waking a thread costs more than it saves.
inline constexpr std::size_t kForkElements = 32 << 10;

/// work(unit, thread) for each unit, forked or on the caller's thread.
template <class Work>
void run_units(ComputePool& pool, std::size_t units, bool fork, const Work& work) {
  if (fork) {
    pool.run(units, work);
  } else {
    for (std::size_t unit = 0; unit < units; ++unit) work(unit, 0);
  }
}

/// work(begin, end) over ranges that cover [0, rows).
template <class Work>
void for_row_ranges(ComputePool& pool, std::size_t rows, std::size_t row_cost, const Work& work) {
  const std::size_t pieces =
      rows * row_cost < kForkElements ? 1 : std::min<std::size_t>(rows, 4 * pool.threads());
  if (pieces <= 1) return work(0, rows);
  pool.run(pieces, [&](std::size_t piece, std::uint32_t) {
    work(rows * piece / pieces, rows * (piece + 1) / pieces);
  });
}

}  // namespace fulgur::kernels::cpu
