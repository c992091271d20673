#include "tests/support/device_backend.hpp"

#include <map>

#if FULGUR_TEST_CUDA == 1
#include "kernels/cuda/emulation/emulated_backend.hpp"
#include "kernels/cuda/emulation/emulation.hpp"
#endif

namespace fulgur::test {

#if FULGUR_TEST_CUDA == 1

Result<std::unique_ptr<kernels::Backend>> make_device_backend(kernels::Precision precision,
                                                              bool strict) {
  return kernels::make_emulated_cuda_backend(
      {.precision = precision, .shape = {}, .strict = strict});
}
std::vector<bool> device_orders() { return {false, true}; }
void in_order(bool reversed, const std::function<void()>& call) {
  kernels::emulation::reversed = reversed;
  call();
  kernels::emulation::reversed = false;
}

#else

Result<std::unique_ptr<kernels::Backend>> make_device_backend(kernels::Precision precision,
                                                              bool strict) {
  return kernels::make_cuda_backend({.precision = precision,
                                     .family = kernels::CudaFamily::portable,
                                     .shape = {},
                                     .strict = strict});
}
std::vector<bool> device_orders() { return {false}; }
void in_order(bool, const std::function<void()>& call) { call(); }

#endif

BlockSource device_blocks(kernels::Backend& backend) {
  const auto blocks = std::make_shared<std::map<void*, std::shared_ptr<std::byte>>>();
  return {MemoryKind::device,
          [&backend, blocks](std::size_t bytes) -> void* {
            try {
              auto block = backend.allocate(bytes);
              return ((*blocks)[block.get()] = block).get();
            } catch (const std::bad_alloc&) {
              return nullptr;
            }
          },
          [blocks](void* block) { blocks->erase(block); }};
}

}  // namespace fulgur::test
