// What benchmarks of large models need beside the operations: seeded weights that a backend makes
// in its own memory, of models that nobody wants to keep on a disk, and the greedy choice.
#pragma once

#include <cstdint>
#include <memory>

#include "kernels/include/fulgur/kernels/backend.hpp"

namespace fulgur::kernels {

class SyntheticWeights {
 public:
  virtual ~SyntheticWeights() = default;
  /// Roughly normal with this deviation, rounded to bf16; the same for the same seed. What pack(),
  /// pack_table(), pack_router() and pack_expert() would give.
  virtual std::unique_ptr<Matrix> random_matrix(std::size_t rows, std::size_t cols,
                                                std::uint64_t seed, float deviation) = 0;
  virtual std::unique_ptr<Matrix> random_table(std::size_t rows, std::size_t cols,
                                               std::uint64_t seed, float deviation) = 0;
  virtual std::unique_ptr<Matrix> random_router(std::size_t rows, std::size_t cols,
                                                std::uint64_t seed, float deviation) = 0;
  virtual std::unique_ptr<Expert> random_expert(std::size_t hidden, std::size_t inner,
                                                std::uint64_t seed, float deviation) = 0;
  /// The first of the largest of each row of x [rows, cols]; ids [rows] in host memory.
  virtual void argmax(const float* x, std::size_t rows, std::size_t cols, std::uint32_t* ids) = 0;
};

}  // namespace fulgur::kernels
