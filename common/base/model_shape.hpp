// The sizes of a model that decide which kernels fit it.
#pragma once

#include <cstdint>

namespace fulgur {

struct ModelShape {
  std::uint32_t hidden = 0;
  std::uint32_t heads = 0;
  std::uint32_t kv_heads = 0;
  std::uint32_t head_dim = 0;
  std::uint32_t experts = 0;  ///< of a layer
  std::uint32_t experts_per_token = 0;
  std::uint32_t inner = 0;  ///< of an expert
};

}  // namespace fulgur
