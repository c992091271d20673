// Element types of tensors in checkpoints, in memory and on the wire.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace fulgur {

/// Values travel on the wire: append, never renumber.
enum class Dtype : std::uint8_t { f32 = 0, bf16 = 1, f16 = 2 };

constexpr std::size_t size_of(Dtype dtype) { return dtype == Dtype::f32 ? 4 : 2; }

constexpr std::string_view to_string(Dtype dtype) {
  switch (dtype) {
    case Dtype::f32: return "f32";
    case Dtype::bf16: return "bf16";
    case Dtype::f16: return "f16";
  }
  return "unknown";
}

}  // namespace fulgur
