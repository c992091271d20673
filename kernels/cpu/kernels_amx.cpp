// The vector kernels compiled for one instruction set, named below. Only this file and its like are
// built with -m flags; all functions are local to the file, so no such code can reach the rest of
// the program. Those of avx512bf16, with AMX for products of bf16.
#include <immintrin.h>

#include "kernels/cpu/kernel_table.hpp"
#include "kernels/reference/exp_constants.hpp"

#define FULGUR_KERNEL_BF16
#define FULGUR_KERNEL_AMX
#define FULGUR_KERNEL_NAME "cpu-amx"
#define FULGUR_KERNEL_ROWS 6

namespace fulgur::kernels::cpu {
namespace amx {
namespace {

// A local copy: constexpr functions of a header would be shared with other files.
inline std::size_t padded_dim(std::size_t dim) { return (dim + kVector - 1) / kVector * kVector; }

#include "kernels/cpu/vector_avx512.inl"

#include "kernels/cpu/product.inl"
#include "kernels/cpu/product_tiles.inl"

#include "kernels/cpu/elementwise.inl"

#include "kernels/cpu/attention.inl"
#include "kernels/cpu/probe.inl"

#include "kernels/cpu/table.inl"

}  // namespace
}  // namespace amx

const KernelTable& amx_kernels() { return amx::kTable; }

}  // namespace fulgur::kernels::cpu
