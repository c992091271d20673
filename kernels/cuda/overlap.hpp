// Launches that begin while the kernel before them on the stream still runs (programmatic dependent
// launch), so that launch gaps, set-up and the first bytes of weights hide behind its end.
//
// The rules that every kernel launched by launch_overlapped() keeps (ptx.cuh has both calls):
//   1. wait_for_previous() in every block, by every thread that touches what others wrote or may
//      still read: scratch, lists, outputs. Before it: shared memory, and what is excepted below.
//   2. let_next_begin() only after a wait_for_previous() of the same block.
// From these follow
//   (a) when a wait returns, all earlier work of the stream has ended and is visible: the kernel
//       before has ended, and it could not end before its own waits returned, and so on. A kernel
//       launched the ordinary way began after everything before it.
//   (b) when a kernel begins, all but the one kernel before it has ended and is visible: each block
//       of that one has either passed its own wait or ended, and none ends without one.
// By (b) a kernel may read before its wait what was written before the launch of the kernel before
// it, if nothing rewrites it since: that is Product::early. It reads so past L1 (load_fresh(), the
// copy engine), since the end of what wrote it is a matter of L2. Nothing is ever written before
// the wait. After anything but a kernel (a copy, an event, the start of a graph) a launch waits as
// always. Captured, the order becomes a programmatic edge between two kernel nodes; the rules are
// the same.
#pragma once

#include <cuda_runtime.h>

#include <atomic>
#include <utility>

namespace fulgur::kernels::cuda {

/// Set by overlap_launches() of launch.hpp.
inline std::atomic<bool> launches_overlap{true};

/// kernel<<<grid, threads, shared_bytes, stream>>>(arguments...), which may begin early.
template <class... Parameters, class... Arguments>
cudaError_t launch_overlapped(void (*kernel)(Parameters...), dim3 grid, dim3 threads,
                              std::size_t shared_bytes, cudaStream_t stream,
                              Arguments&&... arguments) {
  cudaLaunchAttribute early{};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t config{};
  config.gridDim = grid;
  config.blockDim = threads;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = stream;
  config.attrs = &early;
  config.numAttrs = launches_overlap.load(std::memory_order_relaxed) ? 1 : 0;
  (void)cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...);
  return cudaGetLastError();  // which holds the launch's: the next one must not find it
}

}  // namespace fulgur::kernels::cuda
