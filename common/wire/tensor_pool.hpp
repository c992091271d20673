// Where a service keeps the tensors it sends.
#pragma once

#include <cstdint>
#include <memory>

#include "common/base/buffer_pool.hpp"
#include "common/base/dtype.hpp"

namespace fulgur::wire {

/// `wanted`, or a pool of host memory where that is null or cannot serve: the codec takes tensors
/// in device memory as whole words of 8 bytes only, and rows are [hidden] in bf16 at least.
inline std::shared_ptr<BufferPool> pool_for_rows(std::shared_ptr<BufferPool> wanted,
                                                 std::uint32_t hidden) {
  const bool whole_words = hidden * size_of(Dtype::bf16) % 8 == 0;
  const bool serves = wanted && (wanted->memory() == MemoryKind::host || whole_words);
  return serves ? std::move(wanted) : std::make_shared<BufferPool>();
}

}  // namespace fulgur::wire
