// The cases of fulgur-bench-kernels: each is a call on a backend, with what it must at least move
// and compute.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kernels/include/fulgur/kernels/backend.hpp"

namespace fulgur::kernels::bench {

struct Case {
  std::string name;
  double bytes = 0;            ///< read from memory, at least
  double bf16_operations = 0;  ///< of bf16 products (2 a multiply-add)
  double f32_operations = 0;   ///< of float32 arithmetic
  std::function<void()> run;   ///< one call; walks through data larger than the caches
};

/// Shapes: matrix 1024 x 3072; experts of bench-1b (16, top-2, 1024 x 1536); 8 heads of 128.
/// Cases whose name does not contain `filter` are left out.
std::vector<Case> make_cases(Backend& backend, const std::string& filter);

}  // namespace fulgur::kernels::bench
