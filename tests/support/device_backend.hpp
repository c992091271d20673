// The CUDA backend that a test binary is built for: emulated (FULGUR_TEST_CUDA=1, in every build),
// or on the GPU of this machine (=2). The same tests run on both.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "common/base/buffer_pool.hpp"
#include "kernels/include/fulgur/kernels/backend.hpp"

namespace fulgur::test {

/// Strict, with portable kernels. An error where there is no GPU.
Result<std::unique_ptr<kernels::Backend>> make_device_backend(kernels::Precision precision,
                                                              bool strict = true);
/// Memory of a backend's device for pools; the backend outlives them.
BlockSource device_blocks(kernels::Backend& backend);
/// Orders of a block's threads that can be had: emulated both, {false, true}; on a GPU {false}.
std::vector<bool> device_orders();
/// Makes a call with that order.
void in_order(bool reversed, const std::function<void()>& call);

}  // namespace fulgur::test
